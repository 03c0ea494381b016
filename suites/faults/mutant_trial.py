"""One mutant on trial: written into a copy of the checkout, where the tests of its package run until one fails."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from suites.faults.child import run_pytest
from suites.faults.mutation import Mutant
from suites.faults.planting import put, unplant
from suites.faults.results import MutantTrial, Outcome
from suites.faults.trial import backend_options, fresh_scratch, last_line, run

LIMIT = 240.0  # seconds; after them no further test of the suites is begun, and unit tests that still run hang
UNIT_TESTS: dict[str, tuple[str, ...]] = {
    "impl_flax": ("tests/test_flax_layers.py",),
    "twinvae": ("tests/test_config.py", "tests/test_frames.py", "tests/test_posterior.py", "tests/test_checkpoint.py",
                "tests/test_reference.py", "tests/test_diffusers_adapter.py", "tests/test_tiles.py"),
    "reports": ("tests/reports", "tests/test_plugin.py"),
}  # fmt: skip
IN_SUITES = ("impl_flax", "twinvae")  # packages whose mutants meet the quick form
OPTIONS = ("--exitfirst", "-p", "no:cacheprovider", "-q", "--no-header", "--tb=line")
FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - (.*))?$", re.MULTILINE)


def run_mutant(mutant: Mutant, copy: Path, limit: float = LIMIT, commit: str = "") -> MutantTrial:
    """Plant a mutant, run, and take it out again, whatever happens."""
    began = time.monotonic()
    before = put({copy / mutant.file: mutant.source})
    try:
        outcome = run_package(mutant.package, copy, limit, Path(mutant.file).stem)
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


def run_package(package: str, copy: Path, limit: float, module: str = "") -> Outcome | None:
    """Everything that a package's mutants meet, up to the first failure; None where a test did not end."""
    outcome = None
    if paths := UNIT_TESTS.get(package):
        outcome = run_unit_tests(sorted(paths, key=lambda path: f"test_{module}." not in path), copy, limit)
        if outcome is None or outcome.status != "clean":
            return outcome
    return run(copy, limit, backend_options([f"{package}/"])) if package in IN_SUITES else outcome


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
