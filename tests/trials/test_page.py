"""The page of faults on trial: what was missed comes first, and what unchanged code and mutants came to."""

from __future__ import annotations

import pytest

from tests.trials.made_up import mutant_trial, trial
from trials import faults, mutants
from trials.page import count, killed, missed, soak_extent, soak_table, suite_table, verdict, write_page
from trials.results import SoakRun, results

FAULTS = (
    trial(),
    trial("two", by={"seconds": 30.0, "suite": "frames"}, group="time"),
    trial("three", "missed"),
    trial("four", by={"suite": "speed"}, kind="cost", group="cost", suite="speed"),
    trial("six", by={"suite": "speed", "evidence": "failed test"}, kind="cost", group="cost", suite="speed"),
    trial("five", "missed", equivalent="it is the same function"),
)
RUN = SoakRun(order=3, seed=1, clip="synthetic", loaded=True, suites=("suites",), ended="finished", seconds=400.0,
              counts={"pass": 100, "inconclusive": 2, "failed": 1}, alarms=("failed: a.py::test_x: late",))  # fmt: skip
MUTANTS = (
    mutant_trial(1, "caught"),
    mutant_trial(2, "hung"),
    mutant_trial(3, "missed", {"what": "stopped after 150 s"}),
    mutant_trial(4, "equivalent", equivalent="nobody reads it"),
    mutant_trial(5, "broken", file="twinvae/tiles.py"),
)


def cells(table: str) -> list[list[str]]:
    """The rows of a Markdown table below its heading."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_what_was_missed_fails_and_what_no_test_can_see_does_not():
    assert [one.planted.name for one in missed(FAULTS)] == ["three"]
    assert not faults.passed(FAULTS)
    assert faults.passed([one for one in FAULTS if one.planted.name != "three"])
    cost = [trial(f"n{number}", kind="cost") for number in range(19)]
    assert faults.passed([*cost, trial("twenty", "missed", kind="cost")])
    assert not faults.passed([*cost[1:], trial("twenty", "missed", kind="cost")])
    assert not faults.passed([trial(status="hung")])


def test_enough_of_the_native_backend_has_to_be_killed():
    def tried(killed: int, survived: int) -> list:
        statuses = [*["caught"] * killed, *["missed"] * survived, "equivalent"]
        return [mutant_trial(1, status) for status in statuses]

    elsewhere = [mutant_trial(1, "missed", file="twinvae/tiles.py")] * 9
    assert mutants.passed([*tried(19, 1), *elsewhere])
    assert not mutants.passed(tried(18, 1))
    assert mutants.passed(elsewhere)


def test_the_page_begins_with_the_verdict_and_what_was_missed(tmp_path):
    stores = results(tmp_path, "cpu")
    stores.faults.write([trial(status="missed"), *FAULTS])
    stores.soak.append(RUN)
    said = write_page(tmp_path, "cpu")
    text = (tmp_path / "cpu" / "faults.md").read_text()
    assert "Faults of values caught: 2 of 3; faults of cost caught: 2 of 2; median 20 s" in said
    assert "1 alarm in 1 run of all tests." in said
    first, *_ = text.split("## By suite")
    assert text.startswith("# faults on cpu: 1 not caught\n")
    assert said in first
    assert "`three`" in first
    assert "`two`" not in first
    assert "- `five` (missed): A mistake. it is the same function" in text
    assert "run 3 (seed 1, synthetic, loaded): failed: a.py::test_x: late" in text
    assert "6 trials, the last of 2026-03-04T05:06:07+00:00, commit 0123456789ab." in text


def test_suites_are_counted_by_the_alarms_that_they_raised_first():
    assert cells(suite_table(FAULTS)) == [
        ["frames", "1", "0", "0", "0", "0"],
        ["parity", "1", "0", "0", "3", "1"],
        ["speed", "0", "2", "1", "2", "2"],
    ]


@pytest.mark.parametrize(
    ("shares", "said"),
    [((1.0,), "all tests"), ((1.0, 0.05), "5 to 100 % of the tests"), ((0.1, 0.1), "10 % of the tests")],
)
def test_what_soak_runs_took_of_the_suites_is_said(shares, said):
    assert soak_extent([RUN.model_copy(update={"share": share}) for share in shares]) == said


def test_false_alarms_are_counted_with_and_without_load():
    assert cells(soak_table([RUN])) == [
        ["quiet", *["0"] * (len(cells(soak_table([RUN]))[0]) - 1)],
        ["all cores loaded", "1", "1", "102", "1", "0", "0", "0", "2", "0"],
    ]


def test_the_page_of_soak_runs_alone_and_of_nothing(tmp_path):
    assert write_page(tmp_path, "cpu") == ""
    assert not (tmp_path / "cpu").exists()
    results(tmp_path, "cpu").soak.append(RUN)
    assert write_page(tmp_path, "cpu") == "Unchanged code raised 1 alarm in 1 run of all tests."
    assert "none tried" in (tmp_path / "cpu" / "faults.md").read_text()


def test_mutants_are_counted_per_package_and_those_that_hang_are_killed():
    assert count(MUTANTS, "impl_flax") == (4, 2, 1, 1, 1)
    assert [killed(MUTANTS, package) for package in ("impl_flax", "twinvae", "twinvae/bench")] == [
        (2, 3),
        (1, 1),
        (0, 0),
    ]
    assert verdict((), (), MUTANTS) == "Mutants killed: impl_flax 2 of 3, twinvae 1 of 1."
    assert verdict((), (), ()) == ""
    early = verdict([trial(before_case=True)], (), ())
    assert early.endswith(" 1 fault planted before the case existed that catches it.")


def test_the_page_shows_survivors_and_why_others_are_equivalent(tmp_path):
    results(tmp_path, "cpu").mutants.write([mutant_trial(3, "caught"), *MUTANTS])
    assert write_page(tmp_path, "cpu") == "Mutants killed: impl_flax 2 of 3, twinvae 1 of 1."
    text = (tmp_path / "cpu" / "faults.md").read_text()
    table, survived, equivalent = text.split("## Mutants\n")[1].split("\n### ")
    assert ["impl_flax", "4", "2", "1", "1", "1", "66.7 %"] in cells(table)
    assert survived.startswith("Mutants that survived\n")
    assert "| impl_flax/port.py:3 | `x = 3` | `x = 4`" in survived
    assert "stopped after 150 s" in survived
    assert equivalent.startswith("Mutants that no test can see\n")
    assert "| impl_flax/port.py:4 | `x = 4` | `x = 5`" in equivalent
    assert "nobody reads it" in equivalent
    assert "5 mutants, the last of 2026-03-05T05:06:07+00:00, commit 0123456." in text
