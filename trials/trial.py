"""One fault or mutant on trial: planted in a copy of the checkout, where the tests that it meets run until an alarm."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from trials.alarm import Outcome
from trials.beginning import BEGINNING, Beginning, Changes, Control, beginning
from trials.catalogue import Fault
from trials.mutation import Mutant
from trials.order import ANSWERABLE, SUITES, files
from trials.planting import ROOT, changes, in_place
from trials.processes import run_pytest
from trials.results import Status, Trial

LIMIT = 240.0  # seconds of unit tests, and of suites; after them no further test is begun
GRACE = 120.0  # seconds for the test that is running then; what takes longer hangs
PLATFORM = "cpu"
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(ROOT / "build" / "programs"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}
COMMON = ("-p", "trials.alarm", "-p", "no:cacheprovider", "-q", "--no-header", "--tb=line")
QUICK = ("-p", "trials.order", "--preset", "tiny", "--platform", PLATFORM, "--one-round")
BACKENDS = {"flax": "impl_flax/", "torchax": "impl_torchax/"}  # what a change in these folders can be seen in
UNIT_TESTS = {"impl_flax": "tests/impl_flax", "twinvae": "tests/twinvae", "twinvae/bench": "tests/bench"}
IN_SUITES = ("impl_flax", "twinvae")  # packages whose mutants meet the quick form, too
Controls = Mapping[tuple[tuple[str, ...], str], Control]  # by suites and backend
NOTHING_KNOWN: Controls = {}


def set_environment() -> None:
    """Before the first trial, for all: programs that they compile are kept, so that none compiles what another did."""
    os.environ.update(ENVIRONMENT)


def unit_tests_of(planted: Fault | Mutant) -> tuple[str, ...]:
    """The unit tests that it meets before any suite: a mutant's those of its package, a fault none."""
    return (UNIT_TESTS[planted.package],) if isinstance(planted, Mutant) else ()


def suites_of(planted: Fault | Mutant) -> tuple[str, ...]:
    """The suites that have to notice it."""
    if isinstance(planted, Fault):
        return ANSWERABLE[planted.kind]
    return SUITES if planted.package in IN_SUITES else ()


def backends_of(files: Iterable[str]) -> tuple[str, ...]:
    """The backend whose code alone is changed; else all."""
    changed = tuple(files)
    own = (name for name, folder in BACKENDS.items() if all(file.startswith(folder) for file in changed))
    return next(((name,) for name in own), tuple(BACKENDS))


def run_trial(
    planted: Fault | Mutant, copy: Path, limit: float = LIMIT, commit: str = "", controls: Controls = NOTHING_KNOWN
) -> Trial:
    """Plant it, run the tests that it meets, and take it out again, whatever happens.

    Args:
        controls: what the suites ran without a change.
    """
    began = time.monotonic()
    try:
        texts = changes(planted, copy)
    except (FileNotFoundError, ValueError) as error:
        return trial_of(planted, "stale", Outcome(status="broken", seconds=0, what=str(error)), commit)
    with in_place(texts, copy):
        outcome = run_tests(planted, texts, copy, limit, controls)
    if outcome is None:
        hung = Outcome(status="broken", seconds=round(time.monotonic() - began, 2))
        return trial_of(planted, "hung", hung, commit)
    status: Status = {"alarm": "caught", "clean": "missed", "broken": "broken"}[outcome.status]
    return trial_of(planted, status, outcome, commit)


def trial_of(planted: Fault | Mutant, status: Status, outcome: Outcome, commit: str = "") -> Trial:
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return Trial[type(planted)](planted=planted, status=status, outcome=outcome, date=date, commit=commit)


def run_tests(planted: Fault | Mutant, texts: Changes, copy: Path, limit: float, controls: Controls) -> Outcome | None:
    """Unit tests, then suites from where the change can be seen on, up to the first alarm; None where a test hangs."""
    outcome: Outcome | None = Outcome(status="clean", seconds=0)
    if paths := unit_tests_of(planted):
        outcome = run_pytest_in(copy, paths, limit)
    if outcome and outcome.status == "clean" and (suites := suites_of(planted)):
        backends = backends_of(planted.files)
        known = [controls[suites, backend] for backend in backends if (suites, backend) in controls]
        soonest = planted.seen_by if isinstance(planted, Fault) else ""
        outcome = run_suites(suites, backends, copy, limit, beginning(texts, known), soonest)
    return outcome


def run_suites(
    suites: Sequence[str],
    backends: Sequence[str],
    copy: Path,
    limit: float,
    begin: Beginning = BEGINNING,
    soonest: str = "",
) -> Outcome | None:
    """The quick form of suites; None where a test did not end."""
    given = ("--backend", ",".join(backends), "--first-test", begin.test, "--spent", str(begin.spent),
             "--soonest", soonest)  # fmt: skip
    return run_pytest_in(copy, [*_quick(suites, copy, limit), *given], limit + GRACE)


def run_control(suites: Sequence[str], backend: str, copy: Path, limit: float) -> tuple[Outcome | None, Control | None]:
    """The same without a change, and what it ran where it came to an end."""
    place = copy.with_name(f"{copy.name}-control.json")
    place.unlink(missing_ok=True)
    given = ("--control", str(place), "--backend", backend)
    outcome = run_pytest_in(
        copy, [*_quick(suites, copy, limit), *given], limit + GRACE, ("-p", "trials.beginning"), to_its_end=True
    )
    return outcome, Control.model_validate_json(place.read_text(encoding="utf-8")) if place.exists() else None


def _quick(suites: Sequence[str], copy: Path, lasts: float) -> list[str]:
    return [*files(suites), *QUICK, "--lasts", str(lasts), "--report-dir", str(_scratch(copy) / "reports")]


def _scratch(copy: Path) -> Path:
    """The folder beside a copy for what a run in it writes."""
    return copy.with_name(f"{copy.name}-scratch")


def run_pytest_in(
    copy: Path, arguments: Sequence[str], limit: float, before: Sequence[str] = (), to_its_end: bool = False
) -> Outcome | None:
    """Run pytest in a copy until an alarm; None where a test does not end.

    Args:
        before: arguments that come before all others.
        to_its_end: whether the process goes on after its outcome, so that other plugins write theirs.
    """
    scratch = _scratch(copy)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    place, output = scratch / "alarm.json", scratch / "output"
    given = ("--alarm", str(place), "--started", repr(time.time()))
    ended = run_pytest([*before, *COMMON, *arguments, *given], copy, output, limit, None if to_its_end else place)
    if place.exists():
        return Outcome.model_validate_json(place.read_text(encoding="utf-8"))
    if ended is None:
        return None
    last = (output.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]
    return Outcome(status="broken", seconds=0, what=f"pytest ended with {ended} and no outcome: {last}")
