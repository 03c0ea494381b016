"""One fault on trial: planted in a copy of the checkout, where the quick form of the suites runs until an alarm."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from suites.faults.catalogue import Fault
from suites.faults.child import run_pytest
from suites.faults.planting import ROOT, Stale, plant, unplant
from suites.faults.results import LASTS, PLACE, STARTED, Outcome, Status, Trial
from suites.faults.stages import files

LIMIT = 240.0  # seconds; after them no further test is begun
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


def arguments(report_dir: Path) -> list[str]:
    """Of pytest: for every fault; `backend_options` come after them."""
    return ["-p", "suites.faults.alarm", *files(), *OPTIONS, "--report-dir", str(report_dir)]


def run_trial(fault: Fault, copy: Path, limit: float = LIMIT, commit: str = "") -> Trial:
    """Plant a fault, run, and take it out again, whatever happens."""
    began = time.time()
    try:
        before = plant(fault, copy)
    except Stale as error:
        return _trial(fault, "stale", 0.0, commit, Outcome(status="broken", seconds=0, what=str(error)))
    try:
        outcome = run(copy, limit, backend_options(edit.file for edit in fault.edits))
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


def run(copy: Path, limit: float = LIMIT, options: Sequence[str] = ()) -> Outcome | None:
    """The quick form of the suites in a copy of the checkout; None where a test did not end."""
    scratch = fresh_scratch(copy)
    place = scratch / "alarm.json"
    told = {PLACE: str(place), STARTED: repr(time.time()), LASTS: str(limit)}
    ended = run_pytest(
        [*arguments(scratch / "reports"), *options], copy, scratch / "output", limit + GRACE, place, told
    )
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
