"""The page of faults on trial: what was missed comes first, and what unchanged code and mutants came to."""

from __future__ import annotations

import pytest

from trials.faults import passed
from trials.mutants_table import count, mutant_verdict
from trials.page import faults_page, missed, soak_extent, soak_table, suite_table, verdict, write_page
from trials.results import (
    MUTANTS,
    SOAK,
    TRIALS,
    MutantTrial,
    SoakRun,
    Trial,
    append,
    read_lines,
    read_results,
    results_folder,
)


def trial(name: str = "one", **fields) -> Trial:
    given = {"fault": name, "group": "axes", "kind": "value", "models": "A mistake.", "files": ("port.py",),
             "expected": "parity", "status": "caught", "seconds": 20.0, "suite": "parity",
             "test": "suites/parity/test_layers.py::test_x[flax]", "what": "past its limit", "evidence": "exact",
             "date": "2026-03-04T05:06:07+00:00", "commit": "0123456789ab"}  # fmt: skip
    return Trial(**(given | fields))


UNSEEN = {"status": "missed", "suite": "", "test": "", "what": "", "evidence": ""}
TRIALS_MADE_UP = (
    trial(),
    trial("two", seconds=30.0, group="time", suite="frames"),
    trial("three", **UNSEEN),
    trial("four", kind="cost", group="cost", expected="speed", suite="speed"),
    trial("six", kind="cost", group="cost", expected="speed", suite="speed", evidence="failed test"),
    trial("five", equivalent="it is the same function", **UNSEEN),
)
RUN = SoakRun(order=3, seed=1, clip="synthetic", loaded=True, suites=("suites",), ended="finished", seconds=400.0,
              counts={"pass": 100, "inconclusive": 2, "failed": 1}, alarms=("failed: a.py::test_x: late",))  # fmt: skip


def test_results_come_back_the_last_of_each_fault_and_a_cut_line_is_left_out(tmp_path):
    place = results_folder(tmp_path, "cpu") / TRIALS
    for line in (trial(**UNSEEN), trial(), trial("two")):
        append(place, line)
    with place.open("a") as file:
        file.write('{"fault": "thr')
    append(place.with_name(SOAK), RUN)
    results = read_results(tmp_path, "cpu")
    assert [(one.fault, one.status) for one in results.trials] == [("one", "caught"), ("two", "caught")]
    assert results.soak == (RUN,)
    place.write_text("{}\n" + trial().model_dump_json() + "\n")
    with pytest.raises(ValueError, match="line 1"):
        read_lines(place, Trial)


def test_what_was_missed_fails_and_what_no_test_can_see_does_not():
    assert [one.fault for one in missed(TRIALS_MADE_UP)] == ["three"]
    assert not passed(TRIALS_MADE_UP)
    assert passed([one for one in TRIALS_MADE_UP if one.fault != "three"])
    cost = [trial(str(number), kind="cost") for number in range(19)]
    assert passed([*cost, trial("twenty", kind="cost", **UNSEEN)])
    assert not passed([*cost[1:], trial("twenty", kind="cost", **UNSEEN)])
    assert not passed([trial(status="hung")])


def test_the_page_begins_with_the_verdict_and_what_was_missed(tmp_path):
    folder = results_folder(tmp_path, "cpu")
    for one in TRIALS_MADE_UP:
        append(folder / TRIALS, one)
    append(folder / SOAK, RUN)
    said = write_page(tmp_path, "cpu")
    text = (tmp_path / "cpu" / "faults.md").read_text()
    assert "Faults of values caught: 2 of 3; faults of cost caught: 2 of 2; median 20 s" in said
    assert "1 alarm in 1 run of all tests." in said
    first, *_ = text.split("## How soon")
    assert text.startswith("# faults on cpu: 1 not caught\n")
    assert said in first
    assert "`three`" in first
    assert "`two`" not in first
    assert "it is the same function" in text
    assert "run 3 (seed 1, synthetic, loaded): failed: a.py::test_x: late" in text
    assert (tmp_path / "cpu" / "figures" / "faults-caught.svg").read_bytes().startswith(b"<?xml")


def cells(table: str) -> list[list[str]]:
    """The rows of a Markdown table below its heading."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


def test_suites_are_counted_by_the_alarms_that_they_raised_first():
    assert cells(suite_table(TRIALS_MADE_UP)) == [
        ["frames", "1", "0", "0", "0", "0"],
        ["parity", "1", "0", "0", "3", "1"],
        ["speed", "0", "2", "1", "2", "2"],
    ]


def test_what_soak_runs_took_of_the_suites_is_said():
    assert soak_extent([RUN]) == "all tests"
    assert soak_extent([RUN, RUN.model_copy(update={"share": 0.05})]) == "5 to 100 % of the tests"
    assert soak_extent([RUN.model_copy(update={"share": 0.1})]) == "10 % of the tests"


def test_false_alarms_are_counted_with_and_without_load():
    assert cells(soak_table([RUN])) == [
        ["quiet", "0", "0", "0", "0", "0", "0", "0", "0"],
        ["all cores loaded", "1", "1", "102", "1", "0", "0", "2", "0"],
    ]


def test_the_page_of_soak_runs_alone_and_of_nothing(tmp_path):
    assert write_page(tmp_path, "cpu") == ""
    assert not (tmp_path / "cpu").exists()
    append(results_folder(tmp_path, "cpu") / SOAK, RUN)
    results = read_results(tmp_path, "cpu")
    assert "none tried" in faults_page("cpu", results)
    assert verdict(results) == "Unchanged code raised 1 alarm in 1 run of all tests."


# Mutants


def mutant(number: int = 1, **fields) -> MutantTrial:
    given = {"package": "impl_flax", "file": "impl_flax/port.py", "line": number, "operator": "NumberReplacer",
             "occurrence": number, "before": f"x = {number}", "after": f"x = {number + 1}", "status": "killed",
             "date": f"2026-03-0{number}T05:06:07+00:00", "commit": "0123456789ab"}  # fmt: skip
    return MutantTrial(**(given | fields))


MUTANTS_MADE_UP = (
    mutant(1, test="a.py::test_x"),
    mutant(2, status="hung"),
    mutant(3, status="survived", what="stopped after 150 s"),
    mutant(4, status="equivalent", reason="nobody reads it"),
    mutant(5, package="twinvae", file="twinvae/tiles.py"),
)


def test_mutants_are_counted_per_package_and_those_that_hang_are_killed():
    found = count(MUTANTS_MADE_UP, "impl_flax")
    assert found == (4, 2, 1, 1, 1)
    assert found.share == "66.7 %"
    assert count(MUTANTS_MADE_UP, "twinvae").share == "100.0 %"
    assert count(MUTANTS_MADE_UP, "reports").share == ""
    assert mutant_verdict(MUTANTS_MADE_UP) == "Mutants killed: impl_flax 2 of 3, twinvae 1 of 1."
    assert mutant_verdict(()) == ""


def test_the_page_shows_survivors_and_why_others_are_equivalent(tmp_path):
    for one in (mutant(3), *MUTANTS_MADE_UP):
        append(results_folder(tmp_path, "cpu") / MUTANTS, one)
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
    assert "5 mutants, the last of 2026-03-05T05:06:07+00:00, commit 0123456789ab." in text
