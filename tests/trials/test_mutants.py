"""Mutants on trial, without models: the sample repeats and holds only what some test could see; planting restores."""

from __future__ import annotations

import pytest

from trials.equivalents import Equivalent, read_equivalents, reason, stale
from trials.mutant_trial import mutant_trial, run_mutant, run_unit_tests
from trials.mutants import asked_for, equivalents_of, kept, main, passed
from trials.mutation import LEFT_OUT, Mutant, mutants_at, places, sample, shares, what_runs
from trials.planting import ROOT
from trials.results import Outcome

PORT = '''"""A docstring with 1 number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    SIZE = 7

def double(x: int | None = 3, kind: Literal[5, 6] = 5) -> Literal[8] | None:
    """Twice 9."""
    total: int | float = 0
    for _ in range(2):
        total += x  # adds 4
    return total if x > 0 and kind == 5 else None


def doubled(x: int) -> int:
    try:
        return x + x
    except (TypeError, ValueError):
        return 0
'''


@pytest.fixture
def root(tmp_path):
    """A checkout of one package."""
    (tmp_path / "port" / "figures").mkdir(parents=True)
    (tmp_path / "port" / "double.py").write_text(PORT)
    return tmp_path


def every(root) -> list[Mutant]:
    return [mutant for place in places(root, "port/double.py") for mutant in mutants_at(root, place)]


# The sample


def test_a_sample_repeats_and_a_larger_one_holds_it(root):
    first = sample(root, "port", 8, seed=0)
    assert sample(root, "port", 8, seed=0) == first
    assert sample(root, "port", 12, seed=0)[:8] == first
    assert sample(root, "port", 8, seed=1) != first
    assert len({mutant.key for mutant in first}) == 8


def test_code_elsewhere_in_the_file_does_not_change_the_order(root, tmp_path):
    def texts(of) -> list[str]:
        found = (mutant.after for mutant in sample(of, "port", 10_000, seed=0))
        return [text for text in found if "one_more" not in text]

    moved = tmp_path / "moved"
    (moved / "port").mkdir(parents=True)
    (moved / "port" / "double.py").write_text(PORT.replace("def double(", "one_more = 1 + 2\n\n\ndef double("))
    assert texts(moved) == texts(root)


def test_every_place_is_drawn_once_before_any_is_drawn_again(root):
    found = [place for place in places(root, "port/double.py") if any(mutants_at(root, place))]
    drawn = sample(root, "port", len(found), seed=0)
    assert sorted(mutant.line for mutant in drawn) == sorted(place.line for place in found)


def test_a_sample_is_shared_out_among_the_packages():
    assert shares(240) == {"impl_flax": 110, "twinvae": 80, "twinvae/bench": 50}


# Mutants


def test_annotations_docstrings_comments_and_what_is_only_for_type_checkers_are_left_alone(root):
    changed = {(mutant.line, mutant.operator) for mutant in every(root)}
    assert not {line for line, _ in changed} & {1, 8, 11}
    assert {operator for line, operator in changed if line == 10} == {"NumberReplacer"}
    defaults = [mutant.after for mutant in every(root) if mutant.line == 10]
    assert sorted(defaults) == sorted(
        f"def double(x: int | None = {x}, kind: Literal[5, 6] = {kind}) -> Literal[8] | None:"
        for x, kind in ((4, 5), (2, 5), (3, 6), (3, 4))
    )
    assert {operator for line, operator in changed if line == 12} == {"NumberReplacer"}


def test_a_mutant_is_python_and_another_program(root):
    for mutant in every(root):
        assert what_runs(mutant.source) not in (None, what_runs(PORT))
        assert mutant.before != mutant.after
        assert mutant.before in PORT


def test_numbers_conditions_loops_operators_and_exceptions_are_changed(root):
    changed = {(mutant.before, mutant.after) for mutant in every(root)}
    assert changed >= {
        ("for _ in range(2):", "for _ in range(3):"),
        ("for _ in range(2):", "for _ in []:"),
        ("return x + x", "return x - x"),
        ("return total if x > 0 and kind == 5 else None", "return total if x > 0 or kind == 5 else None"),
        ("return total if x > 0 and kind == 5 else None", "return total if x >= 0 and kind == 5 else None"),
        ("except (TypeError, ValueError):", "except (TypeError, CosmicRayTestingException):"),
    }


def test_a_bare_star_among_parameters_is_no_product(tmp_path):
    (tmp_path / "port.py").write_text("def keyword(x, *, y):\n    return x * y\n")
    found = [mutant for place in places(tmp_path, "port.py") for mutant in mutants_at(tmp_path, place)]
    assert {mutant.line for mutant in found} == {2}


def test_what_python_cannot_compile_is_no_mutant():
    assert what_runs("def broken(*, x") is None
    assert what_runs("continue") is None
    assert what_runs("x: int | None = 1") == what_runs("x: int & None = 1") != what_runs("x: int | None = 2")


def test_pictures_are_left_out():
    files = {mutant.file for mutant in sample(ROOT, "twinvae/bench", 20, seed=0)}
    assert files
    assert not any(file.startswith(LEFT_OUT) for file in files)


# Trials


def test_a_mutant_is_there_while_its_tests_run_and_gone_after(root, monkeypatch):
    (chosen,) = sample(root, "port", 1, seed=0)
    seen = []

    def look(package, changes, copy, limit, unchanged):
        assert changes == {copy / chosen.file: (PORT, chosen.source)}
        seen.append((package, (copy / chosen.file).read_text()))
        raise RuntimeError("stop")

    monkeypatch.setattr("trials.mutant_trial.run_package", look)
    with pytest.raises(RuntimeError, match="stop"):
        run_mutant(chosen, root)
    assert seen == [("port", chosen.source)]
    assert (root / "port" / "double.py").read_text() == PORT


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (None, "hung"),
        (Outcome(status="clean", seconds=3.0, what="stopped after 3 s"), "survived"),
        (Outcome(status="alarm", seconds=1.0, test="a.py::test_x", what="no"), "killed"),
        (Outcome(status="broken", seconds=1.0, what="ImportError"), "killed"),
    ],
)
def test_what_fails_or_does_not_end_kills_a_mutant(outcome, status, root, monkeypatch):
    monkeypatch.setattr("trials.mutant_trial.run_package", lambda *given: outcome)
    (chosen,) = sample(root, "port", 1, seed=0)
    trial = run_mutant(chosen, root, commit="0123456789ab")
    assert (trial.status, trial.key, trial.commit) == (status, chosen.key, "0123456789ab")
    assert (trial.test, trial.what) == ((outcome.test, outcome.what) if outcome else ("", ""))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("assert True", ("clean", "", "1 passed")),
        ("assert 1 == 2", ("alarm", "test_alone.py::test_alone", "assert 1 == 2")),
        ("import no_such_module", ("alarm", "test_alone.py::test_alone", "ModuleNotFoundError: No module named")),
    ],
)
def test_unit_tests_end_at_the_first_failure_which_is_named(body, expected, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "pytest.ini").write_text("[pytest]\naddopts = -ra\n")
    (copy / "test_alone.py").write_text(f"def test_alone():\n    {body}\n")
    outcome = run_unit_tests(["test_alone.py"], copy, limit=60)
    assert (outcome.status, outcome.test) == expected[:2]
    assert expected[2] in outcome.what


def test_unit_tests_that_do_not_end_are_stopped(tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "pytest.ini").write_text("[pytest]\n")
    (copy / "test_alone.py").write_text("import time\n\ndef test_alone():\n    time.sleep(60)\n")
    assert run_unit_tests(["test_alone.py"], copy, limit=2) is None


# Results


def test_results_go_on_from_where_they_were(root):
    drawn = sample(root, "port", 4, seed=0)
    statuses = ("killed", "survived", "hung")
    lines = [mutant_trial(mutant, status) for mutant, status in zip(drawn, statuses, strict=False)]
    known = kept([mutant_trial(drawn[0], "survived"), *lines], (), root)
    assert [trial.status for trial in known] == list(statuses)
    assert asked_for(drawn, known, survivors=False) == drawn[3:]
    assert asked_for(drawn, known, survivors=True) == drawn[1:3]
    assert kept(lines, (), root, anew=["port"]) == []
    (root / "port" / "double.py").write_text("x = 1\n")
    assert kept(lines, (), root) == []


def test_a_survivor_is_equivalent_once_it_is_listed_and_run_again_once_it_is_not(root):
    (one,) = sample(root, "port", 1, seed=0)
    listed = [Equivalent(file=one.file, before=one.before, after=one.after, reason="the same")]
    (trial,) = kept([mutant_trial(one, "survived")], listed, root)
    assert (trial.status, trial.reason) == ("equivalent", "the same")
    assert kept([trial], (), root) == []
    (killed,) = kept([mutant_trial(one, "killed")], listed, root)
    assert killed.status == "killed"


def test_enough_of_the_native_backend_has_to_be_killed(root):
    (one,) = sample(root, "port", 1, seed=0)

    def trials(package, killed, survived):
        chosen = {"killed": killed, "survived": survived, "equivalent": 5}
        return [mutant_trial(one, status).model_copy(update={"package": package})
                for status, number in chosen.items() for _ in range(number)]  # fmt: skip

    assert passed(trials("impl_flax", 19, 1))
    assert not passed(trials("impl_flax", 18, 1))
    assert passed(trials("impl_flax", 19, 1) + trials("twinvae/bench", 0, 9))


# Equivalents


def entry(**fields) -> Equivalent:
    given = {"file": "port/double.py", "before": "return x + x", "after": "return x - x", "reason": "made up"}
    return Equivalent(**(given | fields))


def test_an_equivalent_is_known_by_its_text(root):
    found = [mutant for mutant in every(root) if reason(mutant, [entry(before="return  x +\n x")])]
    assert [mutant.after for mutant in found] == ["return x - x"]


@pytest.mark.parametrize(
    ("fields", "gone"),
    [
        ({}, False),
        ({"before": "for _ in range(2):", "after": "for _ in []:"}, False),
        ({"before": "return x + 1"}, True),
        ({"after": "return 2 * x"}, True),
        ({"file": "port/none.py"}, True),
        ({"before": "x: int | None = 3", "after": "x: int & None = 3"}, True),
    ],
)
def test_an_entry_that_no_mutant_fits_any_more_is_stale(fields, gone, root):
    assert stale([entry(**fields)], root) == ([entry(**fields)] if gone else [])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[[mutant]\n", "list.toml is not TOML"),
        ('[[mutant]]\nfile = "a.py"\nbefore = "x"\nafter = "y"\n', r"mutant 1 \(x\): reason: Field required"),
        ("[[mutant]]\nline = 3\n", r"mutant 1 \(no line\)"),
    ],
)
def test_a_list_that_is_not_valid_is_refused(content, words, tmp_path):
    (tmp_path / "list.toml").write_text(content)
    with pytest.raises(ValueError, match=words):
        read_equivalents(tmp_path / "list.toml")


def test_every_entry_of_the_list_is_still_a_mutant():
    equivalents_of(ROOT)


def test_a_stale_entry_stops_a_run_before_anything_is_tried(tmp_path, monkeypatch, capsys):
    copy = tmp_path / "copy"
    (copy / "trials").mkdir(parents=True)
    (copy / "trials" / "equivalent.toml").write_text(
        '[[mutant]]\nfile = "a.py"\nbefore = "x"\nafter = "y"\nreason = "none"\n'
    )
    monkeypatch.setattr("trials.mutants.checkout_copy", lambda into: copy)
    assert main(["--jobs", "1", "--report-dir", str(tmp_path)]) == 2
    assert "no mutant of a.py turns 'x' into 'y' any more" in capsys.readouterr().err
    assert not (tmp_path / "cpu").exists()
