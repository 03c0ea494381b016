"""How long devices take for a clip, from what a compiler says of their programs and from published rates.

A round takes a device the longer of its flops at the chip's rate and its bytes at its memory's bandwidth, and then what
it is sent at the rate of one link: nothing is taken to be sent while something is computed, but in `hidden`. Latency is
left out, and so is what puts frames together at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from suites.scaling.cases import ALONE, Case
from suites.scaling.programs import BYTES
from twinvae.bench.aot.programs import Program
from twinvae.jax.chips import Chip
from twinvae.jax.splits import Split, Work


class Cost(NamedTuple):
    """Of a device's program of one frame batch: flops, and bytes that it reads and writes."""

    flops: float
    bytes: float


class Known(NamedTuple):
    """What is known of programs; rows are those of latents on a device.

    Args:
        first, later: costs by rows, of frame batches that begin a clip, and of others.
        edges: bytes that a device which shares rows is sent of both neighbours, in a first and in a later round.
        halo, beside: bytes that a device which shares time is sent in a round, and those that it reads and writes for
            it beside all others; if it has all rows.
        rows: of the frames.
    """

    first: Mapping[int, Cost]
    later: Mapping[int, Cost]
    edges: tuple[float, float]
    halo: float
    beside: float
    rows: int


def known_of(programs: Mapping[Case, Program], rows: int) -> Known:
    """What a model takes of a chip's programs; of those that know it, the first says what is sent."""

    def costs(first: bool) -> dict[int, Cost]:
        return {
            -(-rows // case.split.rows): Cost(program.flops, program.bytes_accessed)
            for case, program in programs.items()
            if case.split.time == 1 and case.first is first
        }

    def sent(case: Case) -> int:
        return programs[case].counts["collective-permute" + BYTES]

    in_rows = next(case for case in programs if case.split.time == 1 < case.split.rows and not case.first)
    in_time = next(case for case in programs if case.split.rows == 1 < case.split.time)
    edges = sent(in_rows._replace(first=True)), sent(in_rows)
    beside = programs[in_time].bytes_accessed - programs[ALONE].bytes_accessed
    return Known(costs(True), costs(False), edges, sent(in_time), beside, rows)


class Times(NamedTuple):
    """Seconds that a clip takes."""

    computed: float
    sent: float

    @property
    def total(self) -> float:
        return self.computed + self.sent


def seconds(cost: Cost, chip: Chip, dtype: str = "bfloat16") -> float:
    """The least time of a program."""
    return max(cost.flops / (chip.rates[dtype] * 1e12), cost.bytes / (chip.bandwidth * 1e12))


def cost_at(costs: Mapping[int, Cost], rows: int) -> Cost:
    """Of so many rows: on the line between the nearest that were compiled, and on with the last line beyond them.

    Fewer than any that was compiled take their share at least.
    """
    known = sorted(costs)
    after = min(max(int(np.searchsorted(known, rows)), 1), len(known) - 1)
    low, high = known[after - 1], known[after]
    share, least = (rows - low) / (high - low), rows / low if rows < low else 0
    return Cost(*(max(least * one, one + share * (two - one))
                  for one, two in zip(costs[low], costs[high], strict=True)))  # fmt: skip


def times(known: Known, chip: Chip, work: Work, split: Split) -> Times:
    """What a split of a clip takes."""
    rows = -(-work.rows // split.rows)
    rounds, link = len(work.rounds(split.time)), chip.link * 1e9
    halo, beside = (part * rows / known.rows if split.time > 1 else 0 for part in (known.halo, known.beside))

    def of_round(costs: Mapping[int, Cost]) -> float:
        alone = cost_at(costs, rows)
        return seconds(alone._replace(bytes=alone.bytes + beside), chip)

    first, later = of_round(known.first), of_round(known.later)
    # Up and down go over links of their own.
    edges = [of_both / 2 if split.rows > 1 else 0 for of_both in known.edges]
    sent = rounds * halo + edges[0] + (rounds - 1) * edges[1]
    return Times(first + (rounds - 1) * later, sent / link)


class Point(NamedTuple):
    """What so many chips come to.

    Args:
        speed_up: over one chip, of the fastest split; `hidden` if all is sent while something is computed.
        time, rows: over one chip, of time alone and of rows alone.
    """

    chips: int
    split: Split
    speed_up: float
    hidden: float
    time: float
    rows: float


def point(known: Known, chip: Chip, work: Work, chips: int) -> Point:
    """The fastest split over at most so many chips."""
    found = {split: times(known, chip, work, split) for split in work.splits(chips)}
    alone = found[Split()].total

    def speed_up(*splits: Split) -> float:
        return alone / min(found[split].total for split in splits)

    split = min(found, key=lambda split: (found[split].total, split.devices))
    hidden = alone / min(max(one) for one in found.values())
    in_time = [split for split in found if split.rows == 1]
    in_rows = [split for split in found if split.time == 1]
    return Point(chips, split, speed_up(split), hidden, speed_up(*in_time), speed_up(*in_rows))


def allowed(known: Known, chip: Chip, work: Work) -> float:
    """The speed-up that devices in time cannot exceed: the whole clip over its first frame batch."""
    return times(known, chip, work, Split()).total / seconds(cost_at(known.first, work.rows), chip)
