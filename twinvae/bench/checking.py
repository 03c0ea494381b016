"""Running the suites through pytest in this process, from a checkout or from what is installed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, cast

import pytest
import typer
from rich.markup import escape

from twinvae.bench import compile_cache, debugging, options
from twinvae.bench.places import ROOT, SUITES, suite_names

INI = Path(__file__).with_name("pytest.ini")


class SuiteOption(NamedTuple):
    """An option that the suites add to pytest: its name, and how pytest was told of it."""

    name: str
    told: Mapping[str, Any]

    @property
    def parameter(self) -> inspect.Parameter:
        """The same option of a typer command."""
        help = escape(self.told["help"])
        is_flag, metavar = self.told.get("action") == "store_true", self.told.get("metavar")
        kind = Annotated[bool if is_flag else str | None, typer.Option(self.name, metavar=metavar, help=help)]
        name = self.name.removeprefix("--").replace("-", "_")
        default = False if is_flag else None
        return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def suite_options() -> list[SuiteOption]:
    """Every option of the suites, as pytest is told of them."""
    found: list[SuiteOption] = []

    class Group:
        def getgroup(self, *_: str) -> Group:
            return self

        def addoption(self, name: str, **told: Any) -> None:
            found.append(SuiteOption(name, told))

    for plugin in (options, debugging, compile_cache):
        plugin.pytest_addoption(cast(pytest.Parser, Group()))
    return found


def run_suites(suites: Sequence[str], given: Mapping[str, str | bool | None], more: Sequence[str] = ()) -> int:
    """Run the tests of these suites.

    Args:
        given: values of suite options, by their names without dashes.
        more: arguments for pytest; tests named among them, such as suites/parity/test_vae.py::test_x, run alone.
    Returns:
        pytest's exit status.
    Raises:
        ValueError: no such suite, or none at all.
    """
    unknown = sorted(set(suites) - set(suite_names()))
    if unknown or not suites:
        found = f"unknown {', '.join(map(repr, unknown))}" if unknown else "found no name"
        raise ValueError(f"--suite: {found}; choose from {', '.join(suite_names())}")
    tests = [argument for argument in more if _names_test(argument)]
    chosen = [str(ROOT / test) for test in tests] or [str(SUITES / suite) for suite in suites]
    stated = [f"--{name}" if value is True else f"--{name}={value}" for name, value in given.items() if value]
    return int(pytest.main([
        "-c", str(INI), f"--rootdir={ROOT}", f"--confcutdir={SUITES}",
        "-o", f"cache_dir={Path.cwd() / '.pytest_cache'}", "--diagnose",
        *([] if any("::" in test for test in tests) else ["--tb=no", "-rN"]),  # causes are told at the end
        *chosen, *stated, *(argument for argument in more if argument not in tests),
    ]))  # fmt: skip


def _names_test(argument: str) -> bool:
    return argument.startswith("suites/") and (ROOT / argument.partition("::")[0]).exists()
