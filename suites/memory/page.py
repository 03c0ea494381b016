"""Tables of the memory page: ceilings, a card's programs, prediction beside measurement, and how far memory reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from suites.memory.bars import (
    ARITHMETIC,
    BYTES,
    FLOPS,
    MEASURED,
    MEMORY_SHARE,
    OFF,
    PEAK,
    PREDICTED,
    TEMPORARIES,
    TIME_SHARE,
    TRAFFIC,
)
from twinvae.bench.aot import cuda, hlo
from twinvae.bench.aot.compilers import chip_of
from twinvae.bench.records import Key
from twinvae.bench.verdicts import Verdict, number
from twinvae.jax.chips import GPUS

Rows = tuple[list[str], list[list[str]]]  # headings, and cells
PROGRAM = ("", "operation", "shape", "backend", "model")


class Published(NamedTuple):
    """A peak as its authors or the same compiler give it, in bfloat16 on one v6e.

    Args:
        goal, form, frames, peak: where it lies in the picture of how far memory reaches, in GB; None where it has no
            figure.
    """

    what: str
    words: str
    goal: str
    form: str
    frames: int
    peak: float | None


# What there was before.
PUBLISHED = (
    Published("Flax port, decode 8 frames at 768x1360, untiled", "25 GB on the chip; 23.9 by the compiler",
              "most frames at 768x1360", "one program", 8, 25.0),
    Published("the same, 16 frames", "does not fit in 32 GB", "most frames at 768x1360", "one program", 16, None),
    Published("diffusers under TorchAx, 8 frames at 768x1360", "29.3 GB",
              "most frames at 768x1360", "one program", 8, 29.3),
    Published("Flax port, 13 frames at 480x720, untiled", "17 GB",
              "most frames at 480x720", "one program", 13, 17.0),
    Published("the same, in the default tiles", "5 GB", "most frames at 480x720", "tiled", 13, 5.0),
)  # fmt: skip


def published_table() -> Rows:
    """What there was before, in words."""
    return ["published, on a v6e", "peak"], [[one.what, one.words] for one in PUBLISHED]


def ceiling_table(verdicts: Sequence[Verdict]) -> Rows:
    """A row per peak by the TPU compiler's word: the ceiling, the margin to it, and where the number comes from."""
    rows = []
    for v in verdicts:
        if v.record and v.key.metric == PEAK:
            limit = v.record.limit
            margin = "" if limit is None or v.value is None else f"{100 * (limit - v.value) / limit:+.0f} %"
            value = "needs compiling" if v.record.pending else "" if v.value is None else f"{v.value:.2f}"
            rows.append([
                v.key.case, v.key.operation, v.key.shape, v.key.backend, v.key.preset, value + v.mark,
                "" if limit is None else f"{limit:g}", margin, "" if v.before is None else f"{v.before:.2f}",
                v.record.note,
            ])  # fmt: skip
    headings = ["", "operation", "frames x height x width", "backend", "model", "peak [GB]", "ceiling [GB]", "margin",
                "baseline [GB]", ""]  # fmt: skip
    return headings, rows


def about_card(platform: str) -> str:
    """Of the platform of a card's compiler: where the card's description comes from; empty of any other platform."""
    chip = chip_of(platform)
    return cuda.origin(chip) if chip in GPUS else ""


def card_table(verdicts: Sequence[Verdict]) -> Rows:
    """A row per program of a card: what it needs, and what it consists of."""
    rows = [
        [*key, *(_cell(found, metric, ".3g") for metric in (PEAK, TEMPORARIES)),
         _cell(found, MEMORY_SHARE, ".2f"), *(_cell(found, metric, "g") for metric in hlo.COUNTS)]
        for key, found in _of_programs(verdicts).items()
    ]  # fmt: skip
    return [*PROGRAM, "peak [GB]", "temporaries [GB]", MEMORY_SHARE, *hlo.COUNTS], rows


def roofline_table(verdicts: Sequence[Verdict]) -> Rows:
    """A row per program of a card: the least time that its flops and its bytes take, and which of them is more."""
    units = {FLOPS: "TFLOP", BYTES: "GB", ARITHMETIC: "ms", TRAFFIC: "ms"}
    rows = [
        [*key, *(_cell(found, metric, ".3g") for metric in units), _bound(found), _cell(found, TIME_SHARE, ".2f")]
        for key, found in _of_programs(verdicts).items()
    ]
    return [*PROGRAM, *(f"{metric} [{unit}]" for metric, unit in units.items()), "bound by", TIME_SHARE], rows


def _of_programs(verdicts: Sequence[Verdict]) -> dict[tuple[str, ...], dict[str, Verdict]]:
    """What is said of each program of a card, by metric."""
    found: dict[tuple[str, ...], dict[str, Verdict]] = {}
    for v in verdicts:
        key = v.key.case, v.key.operation, v.key.shape, v.key.backend, v.key.preset
        found.setdefault(key, {})[v.key.metric] = v
    return {key: values for key, values in found.items() if FLOPS in values}


def _cell(found: Mapping[str, Verdict], metric: str, form: str) -> str:
    v = found.get(metric)
    return "" if v is None else ("" if v.value is None else format(v.value, form)) + v.mark


def _bound(found: Mapping[str, Verdict]) -> str:
    flops, moved = (found[metric].value if metric in found else None for metric in (ARITHMETIC, TRAFFIC))
    return "" if flops is None or moved is None else "flops" if flops >= moved else "bytes"


def prediction_table(verdicts: Sequence[Verdict]) -> Rows:
    """A row per clip and backend: what its compiler says, what was measured, one over the other, and over PyTorch's."""
    found: dict[tuple[str, ...], dict[str, Verdict]] = {}
    for v in verdicts:
        if v.record and v.value is not None and v.key.metric in (MEASURED, PREDICTED, OFF):
            found.setdefault((*_clip(v.key), v.key.backend), {})[v.key.metric] = v
    torch = {key[:-1]: values[MEASURED].value for key, values in found.items() if key[-1] == "torch"}
    rows = []
    for key, values in found.items():
        measured, predicted, off = (values.get(metric) for metric in (MEASURED, PREDICTED, OFF))
        ratio = f"{predicted.value / measured.value:.2f}" if predicted and measured else ""
        over = torch.get(key[:-1])
        rows.append([
            *key, _mega(predicted), _mega(measured), ratio + (off.mark if off else ""),
            f"{measured.value / over:.2f}" if measured and over else "",
        ])  # fmt: skip
    headings = ["model", "operation", "frames x height x width", "dtype", "backend", "compiler [MB]", "measured [MB]",
                "compiler / measured", "measured / PyTorch's"]  # fmt: skip
    return headings, rows


def frontier_table(verdicts: Sequence[Verdict]) -> Rows:
    """A row per budget and form, a column per goal."""
    cells: dict[str, dict[str, str]] = {}
    goals: dict[str, None] = {}
    for v in verdicts:
        if v.record and v.record.better == "higher" and v.key.metric.startswith(("most", "largest")):
            goals[v.key.metric] = None
            words = v.record.note.partition(";")[0] or number(v.value)
            cells.setdefault(v.key.case, {})[v.key.metric] = words + v.mark
    return ["memory, form", *goals], [[case, *(row.get(goal, "") for goal in goals)] for case, row in cells.items()]


def _clip(key: Key) -> tuple[str, ...]:
    return key.preset, key.operation, key.shape, key.dtype


def _mega(verdict: Verdict | None) -> str:
    return "" if verdict is None else f"{1000 * verdict.value:.0f}{verdict.mark}"


TABLES = (about_card, card_table, ceiling_table, frontier_table, prediction_table, published_table, roofline_table)
