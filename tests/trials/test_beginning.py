"""Where a trial begins: no later than the first test that can see its change."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

from trials.beginning import BEGINNING, Beginning, Control, beginning, changed_lines
from trials.catalogue import read_catalogue
from trials.planting import ROOT, changes

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
        ("        x = low\n", "        x = -low\n", {5, 6}),
        ("x, LIMIT,", "x, 4,", {8, 9, 10}),
        ("    else:\n", "    if x > 2:\n", {*range(4, 12)}),  # its condition runs, `else` is never said to
        ("if x < low", "if x <= low", {*range(4, 12)}),
        ("    return x\n", "    x += 1\n    return x\n", {*range(4, 12)}),
        ("        note(x)\n", "    note(x)\n", {*range(4, 12)}),  # out of the condition
        ("        note(x)\n", "        note(x)\n        note(low)\n", {5, 6}),
        ("        x = low\n        note(x)\n", "        note(x)\n", {5, 6}),
        ("return y + 1", "return y - 1", {18}),
        ("def inner(y)", "def inner(y=1)", {17, 18, 19}),
        ("return inner(x)\n", "return inner(x)\n\n", set()),  # a blank line
    ],
)
def test_lines_of_a_change_are_those_of_the_innermost_block_that_it_is_in(old, new, lines):
    assert SOURCE.count(old) == 1
    assert changed_lines(SOURCE, SOURCE.replace(old, new)) == lines


@pytest.mark.parametrize(
    ("old", "new"),
    [("LIMIT = 3", "LIMIT = 4"), ("low=0", "low=1"), ('"conv"', '"pool"'), ("2 * x", "3 * x"),
     ("\nTABLE", "\nclip(1)\nTABLE"), ("inner(x)\n", "inner(x)\nclip(1)\n")],
)  # fmt: skip
def test_a_change_that_importing_runs_can_be_seen_from_the_beginning(old, new):
    assert SOURCE.count(old) == 1
    assert changed_lines(SOURCE, SOURCE.replace(old, new)) is None


def test_every_fault_of_the_catalogue_has_lines_or_is_run_by_importing():
    for fault in read_catalogue():
        for texts in changes(fault, ROOT).values():
            lines = changed_lines(*texts)
            assert lines is None or lines, fault.name


FLAX = Control(
    began={"a": 0.0, "b": 5.0, "c": 9.0}, ended=20.0,
    first={"port.py": {5: "b", 6: "c", 11: "a", 18: ""}},
)  # fmt: skip
TORCHAX = Control(began={"d": 0.0, "e": 3.0}, ended=8.0, first={"port.py": {8: "e", 5: "d"}})


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("        x = low\n", "        x = -low\n", Beginning("b", 5.0)),
        ("        x = low\n        note(x)\n", "", Beginning("b", 5.0)),  # the earlier of two
        ("x, LIMIT,", "x, 4,", Beginning("e", 23.0)),  # no test of the first backend runs it
        ("return x", "return -x", Beginning("a", 0.0)),
        ("if x < low", "if x > low", Beginning("a", 0.0)),
        ("return y + 1", "return y - 1", BEGINNING),  # importing runs it
        ("return inner(x)", "return -inner(x)", BEGINNING),  # nothing is known to
        ("LIMIT = 3", "LIMIT = 4", BEGINNING),
    ],
)
def test_a_trial_begins_at_the_first_test_that_runs_a_changed_block(old, new, expected):
    assert beginning({"port.py": (SOURCE, SOURCE.replace(old, new))}, [FLAX, TORCHAX]) == expected


def test_what_a_run_had_no_time_for_is_begun_with():
    cut = FLAX.model_copy(update={"left": "z"})
    for old, expected in (("x, LIMIT,", Beginning("z", 20.0)), ("return x", Beginning("a", 0.0))):
        texts = SOURCE, SOURCE.replace(old, old.replace("x", "-x", 1))
        assert beginning({"port.py": texts}, [cut, TORCHAX]) == expected


def test_a_trial_without_a_run_of_unchanged_code_begins_at_the_beginning():
    assert beginning({"port.py": (SOURCE, SOURCE.replace("y + 1", "y - 1"))}, []) == BEGINNING


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
    place = tmp_path / "control.json"
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "pytest", "-p", "trials.beginning", "--control", str(place), "-q",
               "-p", "no:cacheprovider", "-p", "no:randomly", "test_port.py"]  # fmt: skip
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    found = Control.model_validate_json(place.read_text())
    low, high = found.began
    assert found.began[low] == 0 < found.began[high] < found.ended
    assert not found.left
    lines = found.first["twinvae/port.py"]
    assert {line: lines.get(line) for line in (1, 3, 4, 5, 8, 11, 18)} == {
        1: "", 3: "", 4: low, 5: low, 8: high, 11: low, 18: None,
    }  # fmt: skip
