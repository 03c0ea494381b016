"""What tests of scaling share: the programs of the chosen chip."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suites.scaling.programs import Programs
from twinvae.bench.aot.compilers import chip_of
from twinvae.bench.aot.programs import Answer
from twinvae.bench.aot.programs import told as told_of
from twinvae.bench.options import Options
from twinvae.bench.plugin import skip_without_compiler


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without its compiler there is no such platform: its tests are skipped, and what was measured of it stays."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.compiles)
    skip_without_compiler(config, items, Path(__file__).parent)


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

    def of_chip(answers: list[Answer], value: Callable[[], float]) -> dict[str, Any]:
        fields = told_of(f"pytest suites/scaling --aot {chip}", answers, value)
        refused = all(answer.known for answer in answers) and not all(answer.program.fits for answer in answers)
        return fields | ({"note": f"does not fit a {chip}; {fields['note']}"} if refused else {})

    return of_chip
