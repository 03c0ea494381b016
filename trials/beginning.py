"""Where a trial begins: at the first test that runs a block of statements which the change is in.

Until then the change makes no difference: a trial leaves out the tests before, and counts the seconds that they took
without a change as spent. What they run is noted by this file as a pytest plugin, loaded before anything of the
project: what importing runs counts as run before the first test.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Generator, Mapping, Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import NamedTuple

import coverage
import pytest
from pydantic import BaseModel, ConfigDict

Changes = Mapping[str, tuple[str, str]]  # the text of each file before and after
NOTED = ("impl_flax/*", "impl_torchax/*", "twinvae/*")


class Control(BaseModel):
    """What a run without a change ran, and when.

    Attributes:
        began: every test in its order, and the seconds after the first at which it began.
        ended: the seconds after which the last one had ended.
        left: the first test that was not begun any more; empty where all were.
        first: by file, relative to the checkout, and line: the first test that ran it, "" where importing does.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    began: dict[str, float]
    ended: float
    left: str = ""
    first: dict[str, dict[int, str]]

    def first_test(self, lines: Mapping[str, set[int]]) -> str | None:
        """The first test that runs one of the lines: "" where importing does, None where nothing does."""
        found = {self.first.get(file, {}).get(line) for file, of_file in lines.items() for line in of_file}
        return next((test for test in ("", *self.began) if test in found), None)


class Beginning(NamedTuple):
    """The first test of a trial, and the seconds that those before it took; empty: that of the quick form."""

    test: str = ""
    spent: float = 0.0


BEGINNING = Beginning()


def beginning(changes: Changes, controls: Sequence[Control]) -> Beginning:
    """Where to begin with changes to files.

    Args:
        controls: one backend's after the other's, in the order in which a trial takes them.
    """
    lines: dict[str, set[int]] = {}
    for file, texts in changes.items():
        changed = changed_lines(*texts)
        if changed is None:
            return BEGINNING
        lines[file] = changed
    before = 0.0
    for control in controls:
        test = control.first_test(lines)
        if test is not None:
            return Beginning(test, round(before + control.began[test], 1)) if test else BEGINNING
        if control.left:
            return Beginning(control.left, round(before + control.ended, 1))
        before += control.ended
    return BEGINNING  # which test runs it is not known


def changed_lines(before: str, after: str) -> set[int] | None:
    """The lines of the innermost blocks that hold a change; None where importing makes a difference already."""
    old, new, found = before.splitlines(), after.splitlines(), set()
    blocks = [(node, block) for node in ast.walk(ast.parse(before)) for name in ("body", "orelse", "finalbody")
              if isinstance(block := getattr(node, name, None), list) and block]  # fmt: skip
    for kind, first, last, new_first, new_last in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        texts = [text for text in (*old[first:last], *new[new_first:new_last]) if text.strip()]
        if kind == "equal" or not texts:
            continue
        indent = min(len(text) - len(text.lstrip()) for text in texts)  # what follows a block may touch its end
        around = [(node, block) for node, block in blocks if block[0].lineno <= first + 1
                  and last <= block[-1].end_lineno and block[0].col_offset <= indent]  # fmt: skip
        if not any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node, _ in around):
            return None
        _, innermost = max(around, key=lambda one: one[1][0].lineno)
        found |= set(range(innermost[0].lineno, innermost[-1].end_lineno + 1))
    return found


# As a plugin

_measured = coverage.Coverage(data_file=None, include=NOTED, config_file=False)
_began: dict[str, float] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    _measured.start()
    parser.addoption("--control", type=Path, required=True, metavar="FILE", help="where it is written")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    _began[item.nodeid] = time.monotonic()
    _measured.switch_context(item.nodeid)
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    ended = time.monotonic()
    _measured.stop()
    zero = min(_began.values(), default=ended)
    order = {test: place for place, test in enumerate(["", *_began])}
    data, first = _measured.get_data(), {}
    for file in data.measured_files():
        contexts = data.contexts_by_lineno(file).items()
        name = Path(file).relative_to(Path.cwd()).as_posix()
        first[name] = {line: min(tests, key=order.__getitem__) for line, tests in contexts if tests}
    began = {test: at - zero for test, at in _began.items()}
    left = next((item.nodeid for item in session.items if item.nodeid not in began), "")
    noted = Control(began=began, ended=ended - zero, left=left, first=first)
    session.config.option.control.write_text(noted.model_dump_json())
