"""One fault on trial: planted in a copy of the checkout, where the quick form of the suites runs until an alarm."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from trials import first_runs
from trials.catalogue import Fault
from trials.order import ANSWERABLE, SUITES, files
from trials.planting import ROOT, Stale, plant, unplant
from trials.processes import run_pytest
from trials.reach import BEGINNING, Changes, Reach, Start, start
from trials.results import FIRST, LASTS, PLACE, SPENT, STARTED, Outcome, Status, Trial

LIMIT = 180.0  # seconds; after them no further test is begun
GRACE = 120.0  # seconds for the test that is running then; what takes longer hangs
PLATFORM = "cpu"
PROGRAMS = ROOT / "build" / "programs"
OPTIONS = ("--preset", "tiny", "--platform", PLATFORM, "-p", "no:cacheprovider", "-q", "--no-header", "--tb=line")
BACKENDS = {"flax": "impl_flax/", "torchax": "impl_torchax/"}  # what a change in these folders can be seen in


def set_environment(programs: Path = PROGRAMS) -> None:
    """Before the first trial: of all of them.

    Args:
        programs: a folder in which compiled programs are kept, so that no trial compiles what an earlier one did.
    """
    os.environ.update({
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(programs),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    })  # fmt: skip


def run_trial(
    fault: Fault, copy: Path, limit: float = LIMIT, commit: str = "", unchanged: Mapping[str, Reach] = {}
) -> Trial:
    """Plant a fault, run the suites that answer for its kind, and take it out again, whatever happens.

    Args:
        unchanged: what those suites ran without a fault, by backend.
    """
    began = time.time()
    try:
        before = plant(fault, copy)
    except Stale as error:
        return _trial(fault, "stale", 0.0, commit, Outcome(status="broken", seconds=0, what=str(error)))
    try:
        changes = {path: (text, path.read_text(encoding="utf-8")) for path, text in before.items()}
        outcome = run_changed(changes, copy, limit, unchanged, ANSWERABLE[fault.kind])
    finally:
        unplant(before)
    if outcome is None:
        return _trial(fault, "hung", time.time() - began, commit, None)
    status: Status = {"alarm": "caught", "clean": "missed", "broken": "broken"}[outcome.status]
    return _trial(fault, status, outcome.seconds, commit, outcome)


def backend_options(files: Iterable[str]) -> tuple[str, ...]:
    """Of pytest: the backend whose code alone is changed; none where both may be."""
    changed = tuple(files)
    own = (name for name, folder in BACKENDS.items() if all(file.startswith(folder) for file in changed))
    return next((("--backend", name) for name in own), ())


def _trial(fault: Fault, status: Status, seconds: float, commit: str, outcome: Outcome | None) -> Trial:
    found = outcome.model_dump(exclude={"status", "seconds"}) if outcome and status != "missed" else {}
    return Trial(
        fault=fault.name,
        group=fault.group,
        kind=fault.kind,
        models=fault.models,
        files=tuple(dict.fromkeys(edit.file for edit in fault.edits)),
        expected=fault.suite,
        equivalent=fault.equivalent,
        status=status,
        seconds=round(seconds, 2),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit,
        **found,
    )


def run_changed(
    changes: Changes, copy: Path, limit: float, unchanged: Mapping[str, Reach], suites: Sequence[str] = SUITES
) -> Outcome | None:
    """The quick form in a copy with changes, from where they can be seen on."""
    options = backend_options(path.relative_to(copy).as_posix() for path in changes)
    runs = [reach for backend, reach in unchanged.items() if not options or backend in options]
    return run(copy, limit, options, suites, start(changes, copy, runs))


def run(
    copy: Path,
    limit: float = LIMIT,
    options: Sequence[str] = (),
    suites: Sequence[str] = SUITES,
    begin: Start = BEGINNING,
) -> Outcome | None:
    """The quick form of suites in a copy of the checkout; None where a test did not end."""
    scratch = fresh_scratch(copy)
    place, told = scratch / "alarm.json", {FIRST: begin.test, SPENT: str(begin.spent)}
    return _outcome(_pytest(scratch, copy, limit, options, suites, told, until=place), scratch)


def run_unchanged(
    copy: Path, limit: float, backend: str, suites: Sequence[str] = SUITES
) -> tuple[Outcome | None, Reach | None]:
    """The same without a change, for one backend, and what it ran where it came to an end."""
    scratch = fresh_scratch(copy)
    place = scratch / "reach.json"
    plugin, options = ("-p", first_runs.__name__), ("--backend", backend)
    ended = _pytest(scratch, copy, limit, options, suites, {first_runs.PLACE: str(place)}, plugin)
    reach = Reach.model_validate_json(place.read_text(encoding="utf-8")) if place.exists() else None
    return _outcome(ended, scratch), reach


def _pytest(
    scratch: Path,
    copy: Path,
    limit: float,
    options: Sequence[str],
    suites: Sequence[str],
    told: Mapping[str, str],
    plugin: Sequence[str] = (),
    until: Path | None = None,
) -> int | None:
    common = {PLACE: str(scratch / "alarm.json"), STARTED: repr(time.time()), LASTS: str(limit)}
    arguments = (
        *plugin,
        "-p",
        "trials.alarm",
        *files(suites),
        *OPTIONS,
        "--report-dir",
        str(scratch / "reports"),
    )
    return run_pytest([*arguments, *options], copy, scratch / "output", limit + GRACE, until, common | told)


def _outcome(ended: int | None, scratch: Path) -> Outcome | None:
    place = scratch / "alarm.json"
    if place.exists():
        return read_outcome(place)
    if ended is None:
        return None
    what = f"pytest ended with {ended} and no outcome: {last_line(scratch / 'output')}"
    return Outcome(status="broken", seconds=0, what=what)


def fresh_scratch(copy: Path) -> Path:
    """An empty folder beside a copy, for what a run in it writes."""
    scratch = copy.with_name(f"{copy.name}-scratch")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    return scratch


def last_line(output: Path) -> str:
    return (output.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]


def read_outcome(place: Path) -> Outcome:
    """What the alarm wrote; broken where that is no outcome."""
    try:
        return Outcome.model_validate_json(place.read_text(encoding="utf-8"))
    except ValidationError as error:
        return Outcome(status="broken", seconds=0, what=f"the alarm wrote no outcome: {str(error).splitlines()[0]}")
