"""The gate on trial: does the speed suite call a planted slowdown regressed, and unchanged code never?

It repeats the suite's own measurement and judgement, Flax's decode over PyTorch's of the tiny preset, against a
baseline from other processes: with 15 % of computing planted in Flax's decode, with nothing changed, and with nothing
changed while other processes keep all cores busy. Nothing is written. The exit status is 0 where the figures are met.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from typing import Annotated, Any

import jax
import typer
from rich.console import Console

from suites.speed.bars import GATE, GATED
from suites.speed.cases import PYTORCH, Contender, Group
from suites.speed.contenders import load
from suites.speed.gated import GROUP, PROCESSES, gated_records, middle_of_processes, own_process
from trials.processes import loaded
from twinvae import VideoVAE
from twinvae.bench.baselines import Entry
from twinvae.bench.pages import table
from twinvae.bench.records import Record
from twinvae.bench.timing import QUIET, foreign_load
from twinvae.bench.verdicts import judge

FLAX = Contender("flax", "jit")
SLOWDOWN = 0.15
# A measurement that is meant to be undisturbed waits until the machine is, and is repeated if it was not.
REPEATS, LONGEST_WAIT = 6, 300.0  # seconds
RUNS, SPREAD = 20, 4  # of each condition, and over how many processes they are spread
Results = list[tuple[str, float]]  # status, and ratio over the baseline's


# How much longer calls are made to take, and whether all cores are kept busy.
CONDITIONS = {
    f"{100 * SLOWDOWN:.0f} % planted": (SLOWDOWN, False),
    "unchanged": (0.0, False),
    "unchanged, all cores loaded": (0.0, True),
}


def main(runs: Annotated[int, typer.Option(min=1, metavar="N", help="of each condition")] = RUNS) -> None:
    console = Console()
    console.print(f"{FLAX} over {PYTORCH}, {GROUP}; past {GATE[GATED].tolerance:g} times the baseline is regressed")
    [baseline] = middle_of_processes(lambda process: [_measured(process, 0.0)])
    if not baseline.sure:
        console.print(f"no baseline: {baseline.note}")
        raise typer.Exit(2)
    low, high = baseline.interval
    console.print(f"baseline, the middle of {PROCESSES} processes: {baseline.value:.3f} ({low:.3f} to {high:.3f})\n")
    found: dict[str, Results] = {condition: [] for condition in CONDITIONS}
    began = time.monotonic()
    for condition, record in _runs(runs):
        status = judge(record, Entry(case=record.case, metric=record.metric, value=baseline.value)).status
        found[condition].append((status, record.value / baseline.value))
        said = f"{condition}: {status}, {record.value / baseline.value:.3f} of the baseline's"
        console.print(f"{said} [dim]({time.monotonic() - began:.0f} s)[/]", highlight=False)
    print(_table(found))
    raise typer.Exit(int(not all(reached(condition, results) for condition, results in found.items())))


def wanted(condition: str, runs: int) -> range:
    """How many runs may be called regressed: where something is planted, all but one in 20; else none."""
    return range(runs - runs // 20, runs + 1) if CONDITIONS[condition][0] else range(1)


def reached(condition: str, results: Results) -> bool:
    return sum(status == "regressed" for status, _ in results) in wanted(condition, len(results))


def _runs(runs: int) -> Iterator[tuple[str, Record]]:
    """Every run of every condition, in turn in each of a few processes."""
    for share in filter(None, (len(range(start, runs, SPREAD)) for start in range(SPREAD))):
        with own_process() as process:
            for condition, (slowdown, busy) in CONDITIONS.items():
                with loaded(busy):
                    for _ in range(share):
                        yield condition, _measured(process, slowdown, busy)


def _measured(process: ProcessPoolExecutor, slowdown: float, busy: bool = False) -> Record:
    """A record of a condition; a measurement is repeated where other work than the condition's own disturbed it."""
    for _ in range(1 if busy else REPEATS):
        if not busy:
            _wait_for_quiet()
        vae_of = partial(slowed_vae, slowdown=slowdown)
        [record] = process.submit(gated_records, [FLAX], GROUP, vae_of).result()
        if record.sure:
            break
    return record


def _wait_for_quiet() -> None:
    until = time.monotonic() + LONGEST_WAIT
    while time.monotonic() < until:
        with foreign_load() as load:
            time.sleep(1)
        if load[0] <= QUIET:
            break


def slowed_vae(contender: Contender, group: Group, slowdown: float) -> VideoVAE:
    """A contender, loaded once in a process; calls of all but PyTorch are made to take longer by a share."""
    vae = copy.copy(_vae(contender, group))
    if contender != PYTORCH and slowdown:
        vae.decode = slowed(vae.decode, slowdown)
    return vae


@cache
def _vae(contender: Contender, group: Group) -> VideoVAE:
    return load(contender, group)


def slowed(call: Callable[[Any], Any], slowdown: float) -> Callable[[Any], Any]:
    """The same call, which computes on for a share of the time that it has taken."""

    def slow(given: Any) -> Any:
        start = time.perf_counter()
        out = jax.block_until_ready(call(given))
        until = start + (1 + slowdown) * (time.perf_counter() - start)
        while time.perf_counter() < until:
            pass
        return out

    return slow


def _table(found: dict[str, Results]) -> str:
    statuses, rows = ("regressed", "inconclusive", "improved", "pass"), []
    for condition, results in found.items():
        (first, *_, last), right = sorted(ratio for _, ratio in results * 2), wanted(condition, len(results))
        counts = map([status for status, _ in results].count, statuses)
        rows.append([condition, *counts, f"{first:.3f} to {last:.3f}", f"{right[0]} to {right[-1]}",
                     "reached" if reached(condition, results) else "missed"])  # fmt: skip
    return table(["condition", *statuses, "ratio over the baseline's", "wanted: regressed", ""], rows)


if __name__ == "__main__":
    main.__doc__ = __doc__
    typer.run(main)
