"""The gate on trial: does the speed suite call a planted slowdown regressed, and unchanged code never?

It repeats the suite's own measurement and judgement, Flax's decode over PyTorch's of the tiny preset, against a
baseline from other processes: with 15 % of computing planted in Flax's decode, with nothing changed, and with nothing
changed while other processes keep all cores busy. Nothing is written. The exit status is 0 where the figures are met.
"""

from __future__ import annotations

import argparse
import multiprocessing
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import jax
import psutil
from rich.console import Console
from rich.live import Live
from rich.table import Table

from suites.speed.bars import GATE, GATED
from suites.speed.cases import PYTORCH, Contender, Group, Size
from suites.speed.contenders import load
from suites.speed.measure import measure, vs_reference
from twinvae import VideoVAE
from twinvae.bench.baselines import Entry
from twinvae.bench.options import Model
from twinvae.bench.records import Record
from twinvae.bench.timing import QUIET, foreign_load
from twinvae.bench.verdicts import STATUSES, judge
from twinvae.config import preset_config

FLAX = Contender("flax", "jit")
GROUP = Group(Model("tiny", preset_config("tiny"), {"preset": "tiny"}), "decode", Size(8, 32, 48), "float32", 40, 40)
SLOWDOWN = 0.15
# A measurement that is meant to be undisturbed waits until the machine is, and is repeated if it was not.
REPEATS, LONGEST_WAIT = 6, 300.0  # seconds
RUNS, PROCESSES = 20, 4  # of each condition, and over how many processes they are spread
BASELINES = 3
GATED_VALUE = {"case": "decode in a few processes", "operation": "decode"}


class Condition(NamedTuple):
    """What is done to the code and to the machine, and what of it is right.

    Args:
        regressed: from the number of runs, the least and the most that may be called regressed.
    """

    name: str
    slowdown: float
    loaded: bool
    regressed: Callable[[int], tuple[int, int]]


CONDITIONS = (
    Condition(f"{100 * SLOWDOWN:.0f} % planted", SLOWDOWN, False, lambda runs: (runs - runs // 20, runs)),
    Condition("unchanged", 0.0, False, lambda runs: (0, 0)),
    Condition("unchanged, all cores loaded", 0.0, True, lambda runs: (0, 0)),
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m suites.speed.gate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help=f"of each condition (default: {RUNS})")
    given = parser.parse_args(arguments)
    if given.runs < 1:
        parser.error(f"--runs {given.runs}: expected a whole number from 1 up")
    console = Console()
    console.print(f"{FLAX} over {PYTORCH}, {GROUP}; past {GATE[GATED].tolerance:g} times the baseline is regressed")
    [baseline] = middle_of_processes(lambda process: [_measured(process, CONDITIONS[1])])
    if not baseline.sure:
        console.print(f"no baseline: {baseline.note}")
        return 2
    low, high = baseline.interval
    console.print(f"baseline, the middle of {BASELINES} processes: {baseline.value:.3f} ({low:.3f} to {high:.3f})\n")
    found: dict[Condition, list[tuple[str, float]]] = {condition: [] for condition in CONDITIONS}
    began = time.monotonic()
    with Live(_table(found, given.runs, began), console=console) as live:
        for condition, record in _runs(given.runs):
            status = judge(record, Entry(case=record.case, metric=record.metric, value=baseline.value)).status
            found[condition].append((status, record.value / baseline.value))
            live.update(_table(found, given.runs, began))
            if not console.is_terminal:  # where a live table shows at its end only
                console.print(f"{condition.name}: {status}, {record.value / baseline.value:.3f} of the baseline's")
    return int(not all(_reached(condition, results, given.runs) for condition, results in found.items()))


def middle_of_processes(measured_in: Callable[[ProcessPoolExecutor], list[Record]]) -> list[Record]:
    """The middle ones of the records of a few processes: where a process's memory lies makes it slower or faster."""
    records = []
    for _ in range(BASELINES):
        with _process() as process:
            records.append(measured_in(process))
    return [sorted(alike, key=lambda record: record.value)[BASELINES // 2] for alike in zip(*records, strict=True)]


def _runs(runs: int) -> Iterator[tuple[Condition, Record]]:
    """Every run of every condition, in turn in each of a few processes."""
    shares = [len(range(start, runs, PROCESSES)) for start in range(PROCESSES)]
    for share in filter(None, shares):
        with _process() as process:
            for condition in CONDITIONS:
                with loaded(condition.loaded):
                    for _ in range(share):
                        yield condition, _measured(process, condition)


def _measured(process: ProcessPoolExecutor, condition: Condition) -> Record:
    """A record of a condition; a measurement is repeated where other work than the condition's own disturbed it."""
    for _ in range(1 if condition.loaded else REPEATS):
        if not condition.loaded:
            _wait_for_quiet()
        [record] = process.submit(run, [FLAX], GROUP, condition.slowdown).result()
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


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


@contextmanager
def loaded(wanted: bool) -> Iterator[None]:
    """Keep every core busy with a process that is not this one's measuring process."""
    cores = psutil.cpu_count() if wanted else 0
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


# In a process of its own


def run(contenders: Sequence[Contender], group: Group, slowdown: float = 0.0) -> list[Record]:
    """Measure as the suite does, giving a record of each contender.

    Args:
        slowdown: the share by which their calls are made to take longer.
    """

    def vae_of(one: Contender, group: Group) -> VideoVAE:
        vae = _vae(one, group)
        vars(vae).pop("decode", None)
        if one != PYTORCH and slowdown:
            vae.decode = slowed(vae.decode, slowdown)
        return vae

    measured = measure(group, [*contenders, PYTORCH], vae_of=vae_of, costs=False)
    for error in measured.failures.values():
        raise error
    return [Record(suite="speed", **(GATED_VALUE | vs_reference(measured, one))) for one in contenders]


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


# What is shown


def _table(found: dict[Condition, list[tuple[str, float]]], runs: int, began: float) -> Table:
    table = Table(title=f"{time.monotonic() - began:.0f} s", title_justify="left")
    statuses = [s for s in STATUSES if s in ("regressed", "inconclusive", "improved", "pass")]
    for heading in ("condition", "runs", *statuses, "ratio over the baseline's", "wanted: regressed", ""):
        table.add_column(heading, justify="left" if heading == "condition" else "right")
    for condition, results in found.items():
        counts = Counter(status for status, _ in results)
        ratios = sorted(ratio for _, ratio in results)
        spread = f"{ratios[0]:.3f} to {ratios[-1]:.3f}" if ratios else ""
        least, most = condition.regressed(runs)
        wanted = f"{most}" if least == most else f">= {least}"
        mark = "" if len(results) < runs else "reached" if _reached(condition, results, runs) else "[red]missed"
        cells = (condition.name, f"{len(results)}/{runs}", *(str(counts[s]) for s in statuses), spread, wanted, mark)
        table.add_row(*cells)
    return table


def _reached(condition: Condition, results: list[tuple[str, float]], runs: int) -> bool:
    least, most = condition.regressed(runs)
    return least <= sum(status == "regressed" for status, _ in results) <= most


if __name__ == "__main__":
    sys.exit(main())
