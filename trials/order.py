"""A pytest plugin: the quick form of the suites, tests of the tiny preset in the order of `order.toml`.

One backend's tests come after the other's: code that both share fails in the first. A trial goes on until an alarm or
until its time is over, so that what comes late may not be reached. The first test may be named: those before are left
out. So may one that goes before all others.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from twinvae.bench.options import OPTIONS

# Who has to notice a fault of each kind by itself: numbers are one matter, what they cost another.
ANSWERABLE = {"value": ("parity", "tiling", "frames"), "cost": ("speed", "memory")}
SUITES = (*ANSWERABLE["value"], *ANSWERABLE["cost"])


class Stage(NamedTuple):
    """Tests of one file or function.

    Args:
        test: its file, or file and name.
        having: parts of the id that pytest puts in brackets, all of which it must have.
    """

    test: str
    having: tuple[str, ...] = ()

    def holds(self, nodeid: str) -> bool:
        name, _, parameters = nodeid.partition("[")
        if self.test not in (name, name.partition("::")[0]):
            return False
        return all(f"-{part}-" in f"-{parameters.removesuffix(']')}-" for part in self.having)


_LISTED = tomllib.loads(Path(__file__).with_name("order.toml").read_text(encoding="utf-8"))["stages"]
STAGES = tuple(Stage(test, tuple(having)) for test, *having in _LISTED)


def files(suites: Sequence[str] = SUITES) -> list[str]:
    """The test files of these suites that pytest has to collect."""
    found = dict.fromkeys(stage.test.partition("::")[0] for stage in STAGES)
    return [file for file in found if file.split("/")[1] in suites]


def in_order(nodeids: Sequence[str], backends: Sequence[str], stages: Sequence[Stage] = STAGES) -> list[str]:
    """The tests of the stages in their order, for one backend after the other; the others are left out."""
    placed: list[tuple[int, int, str]] = []
    for nodeid in nodeids:
        parameters = nodeid.partition("[")[2].removesuffix("]").split("-")
        turn = next((turn for turn, backend in enumerate(backends) if backend in parameters), 0)
        number = next((number for number, stage in enumerate(stages) if stage.holds(nodeid)), None)
        if number is not None:
            placed.append((turn, number, nodeid))
    return [nodeid for *_, nodeid in sorted(placed, key=lambda one: one[:2])]


def from_the_first(chosen: list[str], first: str, soonest: str) -> list[str]:
    """The chosen tests from one of them on, and another one before all others.

    Raises:
        pytest.UsageError: the latter is not among them.
    """
    if soonest and soonest not in chosen:
        raise pytest.UsageError(f"--soonest {soonest}: it is no test of the quick form; name one of trials/order.toml")
    rest = chosen[chosen.index(first) :] if first in chosen else chosen
    return list(dict.fromkeys([*([soonest] if soonest else []), *rest]))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--first-test", default="", help="the test to begin with")
    parser.addoption("--soonest", default="", help="a test that goes before it, wherever its place is")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    by_id = {item.nodeid: item for item in items}
    chosen = in_order(list(by_id), config.stash[OPTIONS].backends)
    chosen = from_the_first(chosen, config.option.first_test, config.option.soonest)
    config.hook.pytest_deselected(items=[by_id[nodeid] for nodeid in by_id.keys() - set(chosen)])
    items[:] = [by_id[nodeid] for nodeid in chosen]
