"""Where a trial begins: no later than the first test that can see its change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap

import pytest

from trials import first_runs
from trials.catalogue import read_catalogue
from trials.lines import changed_lines
from trials.planting import ROOT, edited
from trials.reach import BEGINNING, Reach, Start, start

SOURCE = """\
LIMIT = 3

def clip(x, low=0):
    if x < low:
        x = low
        note(x)
    else:
        x = min(
            x, LIMIT,
        )
    return x

class Layer:
    kind = "conv"

    def run(self, x):
        def inner(y):
            return y + 1
        return inner(x)

TABLE = {"twice": lambda x: 2 * x}
"""


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ("        x = low\n", "        x = -low\n", {5}),
        ("x, LIMIT,", "x, 4,", {8, 9, 10}),  # all of a statement
        ("    else:\n", "    if x > 2:\n", {4, 7}),  # its condition runs, `else` is never said to
        ("if x < low", "if x <= low", {4, 7}),
        ("    return x\n", "    x += 1\n    return x\n", {11}),  # a line of its own block
        ("        note(x)\n", "        note(x)\n        note(low)\n", {6}),
        ("        note(x)\n", "    note(x)\n", {4, 6, 7}),  # out of the condition
        ("        x = low\n        note(x)\n", "        x = low\n", {6}),
        ("return y + 1", "return y - 1", {18}),
        ("def inner(y)", "def inner(y=1)", {17}),
    ],
)
def test_lines_of_a_change_are_those_of_which_one_runs_wherever_it_makes_a_difference(old, new, lines):
    assert SOURCE.count(old) == 1
    assert changed_lines(SOURCE, SOURCE.replace(old, new)) == lines


@pytest.mark.parametrize(
    ("old", "new"),
    [("LIMIT = 3", "LIMIT = 4"), ("low=0", "low=1"), ('"conv"', '"pool"'), ("2 * x", "3 * x"),
     ("\nTABLE", "\nclip(1)\nTABLE")],
)  # fmt: skip
def test_a_change_that_importing_runs_can_be_seen_from_the_beginning(old, new):
    assert SOURCE.count(old) == 1
    assert changed_lines(SOURCE, SOURCE.replace(old, new)) is None


def test_every_fault_of_the_catalogue_has_lines_or_is_run_by_importing():
    for fault in read_catalogue():
        for path, text in edited(fault, ROOT).items():
            lines = changed_lines(path.read_text(), text)
            assert lines is None or lines, fault.name


FLAX = Reach(
    began={"a": 0.0, "b": 5.0, "c": 9.0}, ended=20.0,
    first={"port.py": {5: "b", 6: "c", 11: "a", 18: ""}},
)  # fmt: skip
TORCHAX = Reach(began={"d": 0.0, "e": 3.0}, ended=8.0, first={"port.py": {8: "e", 5: "d"}})


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("        x = low\n", "        x = -low\n", Start("b", 5.0)),
        ("        x = low\n        note(x)\n", "", Start("b", 5.0)),  # the earlier of two
        ("x, LIMIT,", "x, 4,", Start("e", 23.0)),  # no test of the first backend runs it
        ("return x", "return -x", Start("a", 0.0)),
        ("return y + 1", "return y - 1", BEGINNING),  # importing runs it
        ("return inner(x)", "return -inner(x)", BEGINNING),  # nothing is known to
        ("LIMIT = 3", "LIMIT = 4", BEGINNING),
    ],
)
def test_a_trial_begins_at_the_first_test_that_runs_a_changed_line(old, new, expected, tmp_path):
    changes = {tmp_path / "port.py": (SOURCE, SOURCE.replace(old, new))}
    assert start(changes, tmp_path, [FLAX, TORCHAX]) == expected


def test_what_a_run_had_no_time_for_is_begun_with(tmp_path):
    cut = FLAX.model_copy(update={"left": "z"})
    for old, expected in (("x, LIMIT,", Start("z", 20.0)), ("return x", Start("a", 0.0))):
        changes = {tmp_path / "port.py": (SOURCE, SOURCE.replace(old, old.replace("x", "-x", 1)))}
        assert start(changes, tmp_path, [cut, TORCHAX]) == expected


def test_a_trial_without_a_run_of_unchanged_code_begins_at_the_beginning(tmp_path):
    assert start({tmp_path / "port.py": (SOURCE, SOURCE.replace("-", "+"))}, tmp_path, []) == BEGINNING


def test_the_first_test_to_run_each_line_is_noted(tmp_path):
    (tmp_path / "twinvae").mkdir()
    (tmp_path / "twinvae" / "__init__.py").touch()
    (tmp_path / "twinvae" / "port.py").write_text(SOURCE)
    (tmp_path / "test_port.py").write_text(
        textwrap.dedent("""
            from twinvae import port

            def test_low():
                port.note = print
                assert port.clip(-1) == 0

            def test_high():
                assert port.clip(9) == 3 and port.clip(-2) == 0
        """)
    )
    place = tmp_path / "reach.json"
    environment = os.environ | {first_runs.PLACE: str(place), "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        first_runs.__name__,
        "-q",
        "-p",
        "no:cacheprovider",
        "test_port.py",
    ]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    found = Reach(**json.loads(place.read_text()))
    low, high = found.began
    assert found.began[low] == 0 < found.began[high] < found.ended
    assert not found.left
    lines = found.first["twinvae/port.py"]
    assert {line: lines.get(line) for line in (1, 3, 4, 5, 8, 11, 18)} == {
        1: "", 3: "", 4: low, 5: low, 8: high, 11: low, 18: None,
    }  # fmt: skip
