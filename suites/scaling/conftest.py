"""What tests of scaling share: the programs of the chosen chip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suites.scaling.programs import Programs
from twinvae.bench.aot.compilers import chip_of, missing
from twinvae.bench.aot.programs import Answer
from twinvae.bench.options import OPTIONS, Options


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without its compiler there is no such platform: its tests are skipped, and what was measured of it stays."""
    chip = chip_of(config.stash[OPTIONS].platform)
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.compiles)
            if chip and (reason := missing(chip)):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _effort() -> None:
    """Programs are compiled as users have them, with all effort (see the suites' fixture of the same name)."""


@pytest.fixture(scope="session")
def chip(options: Options) -> str:
    return chip_of(options.platform)


@pytest.fixture(scope="session")
def programs(options: Options, chip: str) -> Programs:
    return Programs(chip, options.baseline_dir, options.compiles_all)


@pytest.fixture
def told(chip: str) -> Callable[[list[Answer], Callable[[], float]], dict[str, Any]]:
    """`told(answers, value)`: the value and the note of a record, which is pending where a program is not known."""

    def told(answers: list[Answer], value: Callable[[], float]) -> dict[str, Any]:
        if not all(answer.known for answer in answers):
            return {"value": None, "pending": f"pytest suites/scaling --aot {chip}"}
        note = "; ".join(dict.fromkeys(map(str, answers)))
        refused = not all(answer.program.fits for answer in answers)
        return {"value": value(), "note": f"does not fit a {chip}; {note}" if refused else note}

    return told
