"""Where a trial begins: at the first test that runs a line which the fault changes.

Runs without a fault note, for every line of the project, the first test that ran it (`first_runs`). Until then a change
of that line makes no difference: a trial leaves out the tests before, and counts the seconds that they took as spent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from trials.lines import changed_lines

Lines = Mapping[str, set[int]]
Changes = Mapping[Path, tuple[str, str]]  # the text of each file before and after


class Reach(BaseModel):
    """What a run without a fault ran, and when.

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

    def first_test(self, lines: Lines) -> str | None:
        """The first test that runs one of the lines: "" where importing does, None where nothing does."""
        found = {self.first.get(file, {}).get(line) for file, of_file in lines.items() for line in of_file}
        return next((test for test in ("", *self.began) if test in found), None)


class Start(NamedTuple):
    """Where a trial begins.

    Args:
        test: its first one; empty: that of the quick form.
        spent: the seconds that those before it took.
    """

    test: str = ""
    spent: float = 0.0


BEGINNING = Start()


def start(changes: Changes, root: Path, runs: Sequence[Reach]) -> Start:
    """Where to begin with changes to files of a checkout.

    Args:
        runs: one backend's after the other's, in the order in which a trial takes them.
    """
    lines: dict[str, set[int]] = {}
    for path, (before, after) in changes.items():
        changed = changed_lines(before, after)
        if changed is None:
            return BEGINNING
        lines[path.relative_to(root).as_posix()] = changed
    before = 0.0
    for run in runs:
        test = run.first_test(lines)
        if test is not None:
            return Start(test=test, spent=round(before + run.began[test], 1)) if test else BEGINNING
        if run.left:
            return Start(test=run.left, spent=round(before + run.ended, 1))
        before += run.ended
    return BEGINNING  # which test runs it is not known
