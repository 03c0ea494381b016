"""One mutant on trial: written into a copy of the checkout, where the tests of its package run until one fails."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from trials.mutation import Mutant
from trials.planting import put, unplant
from trials.processes import run_pytest
from trials.reach import Changes, Reach
from trials.results import MutantTrial, Outcome
from trials.trial import BACKENDS, fresh_scratch, last_line, run_changed

LIMIT = 240.0  # seconds; after them no further test of the suites is begun, and unit tests that still run hang
UNIT_TESTS: dict[str, tuple[str, ...]] = {
    "impl_flax": ("tests/impl_flax/test_layers.py",),
    "twinvae": ("tests/twinvae",),
    "twinvae/bench": ("tests/bench",),
}  # fmt: skip
IN_SUITES = {"impl_flax": ("flax",), "twinvae": tuple(BACKENDS)}  # whose mutants meet the quick form, on which backends
OPTIONS = ("--exitfirst", "-p", "no:cacheprovider", "-q", "--no-header", "--tb=line")
FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - (.*))?$", re.MULTILINE)


def run_mutant(
    mutant: Mutant, copy: Path, limit: float = LIMIT, commit: str = "", unchanged: Mapping[str, Reach] = {}
) -> MutantTrial:
    """Plant a mutant, run, and take it out again, whatever happens.

    Args:
        unchanged: what the suites ran without a mutant, by backend.
    """
    began, path = time.monotonic(), copy / mutant.file
    before = put({path: mutant.source})
    try:
        outcome = run_package(mutant.package, {path: (before[path], mutant.source)}, copy, limit, unchanged)
    finally:
        unplant(before)
    seconds = round(time.monotonic() - began, 1)
    if outcome is None:
        return mutant_trial(mutant, "hung", seconds=seconds, commit=commit)
    status = "survived" if outcome.status == "clean" else "killed"
    return mutant_trial(mutant, status, seconds=seconds, commit=commit, test=outcome.test, what=outcome.what)


def mutant_trial(mutant: Mutant, status: str, **fields: str | float) -> MutantTrial:
    told = mutant._asdict() | {"package": mutant.package, "status": status} | fields
    del told["source"]
    return MutantTrial(date=datetime.now(UTC).isoformat(timespec="seconds"), **told)


def run_package(
    package: str, changes: Changes, copy: Path, limit: float, unchanged: Mapping[str, Reach]
) -> Outcome | None:
    """Everything that a package's mutants meet, up to the first failure; None where a test did not end."""
    outcome = None
    if paths := UNIT_TESTS.get(package):
        modules = {f"test_{path.stem}." for path in changes}
        own_first = sorted(paths, key=lambda path: not any(module in path for module in modules))
        outcome = run_unit_tests(own_first, copy, limit)
        if outcome is None or outcome.status != "clean":
            return outcome
    return run_changed(changes, copy, limit, unchanged) if package in IN_SUITES else outcome


def run_unit_tests(paths: Sequence[str], copy: Path, limit: float) -> Outcome | None:
    output = fresh_scratch(copy) / "output"
    began = time.monotonic()
    ended = run_pytest([*paths, *OPTIONS], copy, output, limit, extra={"COLUMNS": "240"})
    if ended is None:
        return None
    seconds = round(time.monotonic() - began, 1)
    if ended == 0:
        return Outcome(status="clean", seconds=seconds, what=last_line(output))
    found = FAILED.search(output.read_text(errors="replace"))
    test, what = found.groups(default="") if found else ("", last_line(output))
    return Outcome(status="alarm", seconds=seconds, test=test, what=what)
