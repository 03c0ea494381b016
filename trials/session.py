"""What faults and mutants have in common: options, a control of unchanged code, then every trial, kept as it comes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from queue import Queue
from typing import Annotated, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from trials.alarm import Outcome
from trials.beginning import Control
from trials.planting import checkout_copy
from trials.processes import import_once, kill_all
from trials.results import Planted, Trial
from trials.trial import (
    Controls,
    backends_of,
    run_control,
    run_pytest_in,
    run_trial,
    set_environment,
    suites_of,
    unit_tests_of,
)
from twinvae.bench.provenance import commit

Jobs = Annotated[int, typer.Option(min=1, metavar="N", help="trials at a time (default: as many as cores)")]
Limit = Annotated[float, typer.Option(metavar="SECONDS", help="after which a trial begins no further test")]
ReportDir = Annotated[Path, typer.Option(metavar="DIR", help="where results and page go")]
Resume = Annotated[bool, typer.Option("--resume", help="leave out what the results hold already")]
WithControl = Annotated[bool, typer.Option(help="first of all, run everything without a change")]
Listing = Annotated[bool, typer.Option("--list", help="show what would be tried, and run nothing")]

CORES = os.cpu_count() or 1
CONTROL = 1.5  # times as long as a trial lasts: what a trial may reach must be clean
COLOURS = {"caught": "green", "equivalent": "cyan", "missed": "red", "stale": "yellow", "hung": "yellow",
           "broken": "yellow"}  # fmt: skip
Given, Result = TypeVar("Given"), TypeVar("Result")
Asked = tuple[tuple[str, ...], str]  # unit tests, or suites and a backend


def try_all(
    planted: Sequence[Planted], keep: Callable[[Trial[Planted]], None], console: Console, jobs: int, limit: float,
    control: bool,
) -> None:  # fmt: skip
    """Try everything, each in a copy of the checkout, and keep what came of it.

    Raises:
        ValueError: unchanged code is not clean, and so everything would be called caught.
    """
    set_environment()
    import_once()
    with tempfile.TemporaryDirectory(prefix="twinvae-trials-") as folder:
        copies = [checkout_copy(Path(folder) / f"copy-{number}") for number in range(jobs)]
        try:
            controls, at = _controls(planted, copies, CONTROL * limit, console) if control else {}, commit()

            def attempt(one: Planted, copy: Path) -> Trial[Planted]:
                return run_trial(one, copy, limit, at, controls)

            for trial in in_turns(planted, copies, attempt, console, "trials", _line):
                keep(trial)
        except KeyboardInterrupt:
            console.print("interrupted; --resume goes on from here")
        finally:
            kill_all()


def _controls(planted: Sequence[Planted], copies: Sequence[Path], limit: float, console: Console) -> Controls:
    """What the suites run without a change."""
    asked: list[Asked] = [(paths, "") for one in planted if (paths := unit_tests_of(one))]
    asked += [(suites, name) for one in planted if (suites := suites_of(one)) for name in backends_of(one.files)]

    def attempt(one: Asked, copy: Path) -> tuple[Asked, Outcome | None, Control | None]:
        tests, backend = one
        found = run_control(tests, backend, copy, limit) if backend else (run_pytest_in(copy, tests, limit), None)
        return one, *found

    controls = {}
    for one, outcome, ran in in_turns(list(dict.fromkeys(asked)), copies, attempt, console, "controls", _control_line):
        if outcome is None or outcome.status != "clean" or (one[1] and ran is None):
            why = f"{outcome.status}, {outcome.test or 'no test'}: {outcome.what}" if outcome else "a test does not end"
            raise ValueError(f"{' '.join((*one[0], one[1]))} without a change is not clean, and so everything would be "
                             f"called caught: {why}. Make the tests pass on the unchanged checkout first")  # fmt: skip
        if ran:
            controls[one] = ran
    return controls


def _control_line(found: tuple[Asked, Outcome | None, Control | None]) -> str:
    (tests, backend), outcome, _ = found
    said = f"{outcome.status}, {outcome.seconds:.0f} s ({escape(outcome.what)})" if outcome else "hung"
    return f"{' '.join((*tests, backend))} without a change: {said}"


def _line(trial: Trial[Planted]) -> str:
    found = f"  [dim]{escape(trial.outcome.test or trial.outcome.what)}[/]" if trial.status != "missed" else ""
    status, seconds = f"[{COLOURS[trial.status]}]{trial.status:7}[/]", f"{trial.outcome.seconds:6.1f} s"
    return f"{status} {seconds}  {escape(trial.planted.name)}{found}"


def in_turns(
    given: Sequence[Given], copies: Sequence[Path], attempt: Callable[[Given, Path], Result], console: Console,
    title: str, line: Callable[[Result], str],
) -> Iterator[Result]:  # fmt: skip
    """Every result as it comes, with a line for it, and on a terminal a bar with the time left below.

    Once it is left, nothing new is begun, and the processes are gone.
    """
    free: Queue[Path] = Queue()
    for copy in copies:
        free.put(copy)

    def try_out(one: Given) -> Result:
        copy = free.get()
        try:
            return attempt(one, copy)
        finally:
            free.put(copy)

    pool = ThreadPoolExecutor(len(copies))
    try:
        ended = as_completed([pool.submit(try_out, one) for one in given])
        for future in track(ended, title, len(given), console=console, disable=not console.is_terminal):
            console.print(line(future.result()), highlight=False, soft_wrap=True)
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        kill_all()
        pool.shutdown(wait=True)
