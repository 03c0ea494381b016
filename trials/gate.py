"""The gate on trial: does the speed suite call a planted slowdown regressed, and unchanged code never?

It repeats the suite's own measurement and judgement, Flax's decode over PyTorch's of the tiny preset, against a
baseline from other processes: with 15 % of computing planted in Flax's decode, with nothing changed, and with nothing
changed while other processes keep all cores busy. Nothing is written. The exit status is 0 where the figures are met.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from typing import Annotated, Any, NamedTuple

import jax
import typer
from rich.console import Console

from suites.speed.cases import PYTORCH, Contender, Group
from suites.speed.contenders import load
from suites.speed.gated import GROUP, PROCESSES, gated_records, middle_of_processes, own_process
from suites.speed.measure import RATIO_TOLERANCE
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
Found = dict["Condition", list[tuple[str, float]]]  # status, and ratio over the baseline's


class Condition(NamedTuple):
    """What is done to the code and to the machine, and what of it is right.

    Args:
        regressed: from the number of runs, the least and the most that may be called regressed.
    """

    name: str
    slowdown: float
    loaded: bool
    regressed: Callable[[int], tuple[int, int]]

    def reached(self, results: list[tuple[str, float]], runs: int) -> bool:
        least, most = self.regressed(runs)
        return least <= sum(status == "regressed" for status, _ in results) <= most


CONDITIONS = (
    Condition(f"{100 * SLOWDOWN:.0f} % planted", SLOWDOWN, False, lambda runs: (runs - runs // 20, runs)),
    Condition("unchanged", 0.0, False, lambda runs: (0, 0)),
    Condition("unchanged, all cores loaded", 0.0, True, lambda runs: (0, 0)),
)


def main(runs: Annotated[int, typer.Option(min=1, metavar="N", help="of each condition")] = RUNS) -> None:
    console = Console()
    console.print(f"{FLAX} over {PYTORCH}, {GROUP}; worse by more than {100 * RATIO_TOLERANCE:.0f} % is regressed")
    [baseline] = middle_of_processes(lambda process: [_measured(process, CONDITIONS[1])])
    if not baseline.sure:
        console.print(f"no baseline: {baseline.note}")
        raise typer.Exit(2)
    low, high = baseline.interval
    console.print(f"baseline, the middle of {PROCESSES} processes: {baseline.value:.3f} ({low:.3f} to {high:.3f})\n")
    found: Found = {condition: [] for condition in CONDITIONS}
    began = time.monotonic()
    for condition, record in _runs(runs):
        status = judge(record, Entry(case=record.case, metric=record.metric, value=baseline.value)).status
        found[condition].append((status, record.value / baseline.value))
        said = f"{condition.name}: {status}, {record.value / baseline.value:.3f} of the baseline's"
        console.print(f"{said} [dim]({time.monotonic() - began:.0f} s)[/]", highlight=False)
    print(_table(found, runs))
    raise typer.Exit(int(not all(condition.reached(results, runs) for condition, results in found.items())))


def _runs(runs: int) -> Iterator[tuple[Condition, Record]]:
    """Every run of every condition, in turn in each of a few processes."""
    shares = [len(range(start, runs, SPREAD)) for start in range(SPREAD)]
    for share in filter(None, shares):
        with own_process() as process:
            for condition in CONDITIONS:
                with loaded(condition.loaded):
                    for _ in range(share):
                        yield condition, _measured(process, condition)


def _measured(process: ProcessPoolExecutor, condition: Condition) -> Record:
    """A record of a condition; a measurement is repeated where other work than the condition's own disturbed it."""
    for _ in range(1 if condition.loaded else REPEATS):
        if not condition.loaded:
            _wait_for_quiet()
        vae_of = partial(slowed_vae, slowdown=condition.slowdown)
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
        value = 1.0
        while time.perf_counter() < until:
            value = value * 1.000001 + 1e-9
        return out

    return slow


def _table(found: Found, runs: int) -> str:
    statuses, rows = ("regressed", "inconclusive", "improved", "pass"), []
    for condition, results in found.items():
        counts, ratios = Counter(status for status, _ in results), sorted(ratio for _, ratio in results)
        least, most = condition.regressed(runs)
        rows.append([condition.name, *map(counts.__getitem__, statuses), f"{ratios[0]:.3f} to {ratios[-1]:.3f}",
                     f"{least} to {most}", "reached" if condition.reached(results, runs) else "missed"])  # fmt: skip
    return table(["condition", *statuses, "ratio over the baseline's", "wanted: regressed", ""], rows)


if __name__ == "__main__":
    main.__doc__ = __doc__
    typer.run(main)
