"""Mutants on trial, without models: the sample repeats and holds only what some test could see; planting restores."""

from __future__ import annotations

import pytest
import typer

from tests.trials.made_up import mutant, mutant_trial
from trials.alarm import Outcome
from trials.mutants import asked_for, kept, main
from trials.mutation import LEFT_OUT, Equivalent, Mutant, equivalents, mutants_at, places, sample, shares, what_runs
from trials.planting import ROOT
from trials.trial import LIMIT, run_tests, run_trial, trial_of

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
    assert len({mutant.name for mutant in first}) == 8


def test_code_elsewhere_in_the_file_does_not_change_the_order(root, tmp_path):
    def texts(of) -> list[str]:
        found = (mutant.after for mutant in sample(of, "port", 10_000, seed=0))
        return [text for text in found if "one_more" not in text]

    moved = tmp_path / "moved"
    (moved / "port").mkdir(parents=True)
    (moved / "port" / "double.py").write_text(PORT.replace("def double(", "one_more = 1 + 2\n\n\ndef double("))
    assert texts(moved) == texts(root)


def test_every_place_is_drawn_once(root):
    found = [place for place in places(root, "port/double.py") if any(mutants_at(root, place))]
    drawn = sample(root, "port", 10_000, seed=0)
    assert sorted(one.line for one in drawn) == sorted(place.line for place in found)
    assert {one.after for one in drawn} != {one.after for one in sample(root, "port", 10_000, seed=1)}


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
    for one in every(root):
        assert what_runs(one.source) not in (None, what_runs(PORT))
        assert one.before != one.after
        assert one.before in PORT


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


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (None, "hung"),
        (Outcome(status="clean", seconds=3.0, what="stopped after 3 s"), "missed"),
        (Outcome(status="alarm", seconds=1.0, test="a.py::test_x", what="no"), "caught"),
        (Outcome(status="broken", seconds=1.0, what="ImportError"), "broken"),
    ],
)
def test_a_mutant_is_there_while_its_tests_run_and_gone_after(outcome, status, root, monkeypatch):
    (chosen,) = sample(root, "port", 1, seed=0)
    seen = []

    def look(planted, texts, copy, limit, controls):
        assert (planted, texts, limit) == (chosen, {chosen.file: (PORT, chosen.source)}, LIMIT)
        seen.append((copy / chosen.file).read_text())
        return outcome

    monkeypatch.setattr("trials.trial.run_tests", look)
    trial = run_trial(chosen, root, commit="0123456789ab")
    assert seen == [chosen.source]
    assert (root / "port" / "double.py").read_text() == PORT
    assert (trial.status, trial.planted.name, trial.commit) == (status, chosen.name, "0123456789ab")
    assert trial.outcome == outcome or outcome is None


@pytest.mark.parametrize(
    ("file", "units", "expected"),
    [
        ("impl_flax/port.py", "clean", ["tests/impl_flax", "suites on flax"]),
        ("impl_flax/port.py", "alarm", ["tests/impl_flax"]),
        ("impl_flax/port.py", None, ["tests/impl_flax"]),
        ("twinvae/port.py", "clean", ["tests/twinvae", "suites on flax,torchax"]),
        ("twinvae/bench/port.py", "clean", ["tests/bench"]),
    ],
)
def test_a_mutant_meets_its_unit_tests_and_then_the_suites_of_its_package(file, units, expected, monkeypatch, tmp_path):
    met, clean = [], Outcome(status="clean", seconds=1)

    def unit_tests(copy, paths, limit):
        met.extend(paths)
        return units and clean.model_copy(update={"status": units})

    def suites(names, backends, copy, limit, begin, soonest):
        met.append(f"suites on {','.join(backends)}")
        return clean

    monkeypatch.setattr("trials.trial.run_pytest_in", unit_tests)
    monkeypatch.setattr("trials.trial.run_suites", suites)
    outcome = run_tests(mutant(file=file), {file: ("", "")}, tmp_path, LIMIT, {})
    assert met == expected
    assert (outcome and outcome.status) == units


# Results


def test_results_go_on_from_where_they_were(root):
    drawn = sample(root, "port", 4, seed=0)
    clean = Outcome(status="clean", seconds=1)
    statuses = ("caught", "missed", "hung")
    lines = [trial_of(one, status, clean) for one, status in zip(drawn, statuses, strict=False)]
    known = kept([trial_of(drawn[0], "missed", clean), *lines, mutant_trial(1, "caught")], drawn)
    assert [trial.status for trial in known] == list(statuses)
    assert asked_for(drawn, known, survivors=False) == drawn[3:]
    assert asked_for(drawn, known, survivors=True) == drawn[1:3]


def test_a_survivor_is_asked_for_again_once_it_is_listed_and_an_equivalent_once_it_is_not():
    listed, plain = mutant(equivalent="the same"), mutant()
    assert kept([mutant_trial(1, "missed")], [listed]) == []
    assert kept([mutant_trial(1, "equivalent", equivalent="the same")], [plain]) == []
    assert [one.status for one in kept([mutant_trial(1, "caught")], [listed])] == ["caught"]
    assert [one.status for one in kept([mutant_trial(1, "missed")], [plain])] == ["missed"]


# Equivalents


def entry(**fields) -> Equivalent:
    given = {"file": "port/double.py", "before": "return x + x", "after": "return x - x", "reason": "made up"}
    return Equivalent(**(given | fields))


def test_a_mutant_that_is_listed_is_drawn_with_the_reason(root):
    (plain,) = sample(root, "port", 1, seed=0)
    listed = entry(file=plain.file, before=plain.before.replace(" ", "\n  "), after=plain.after)
    (found,) = sample(root, "port", 1, seed=0, listed=[entry(), listed])
    assert (plain.equivalent, found.equivalent) == ("", "made up")
    assert (found.name, found.source) == (plain.name, plain.source)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[mutant]\n", "list.toml is not TOML"),
        ('[[mutant]]\nfile = "a.py"\nbefore = "x"\nafter = "y"\n', r"mutant 1: reason: Field required"),
        ('[[mutant]]\nfile = "port/double.py"\nbefore = "return  x\\n + x"\nafter = ""\nreason = "r"\n', ""),
        ('[[mutant]]\nfile = "port/double.py"\nbefore = "return 7"\nafter = ""\nreason = "r"\n', "does not hold"),
        ('[[mutant]]\nfile = "port/none.py"\nbefore = "return x + x"\nafter = ""\nreason = "r"\n', "does not hold"),
    ],
)
def test_a_list_that_is_not_valid_or_not_of_these_sources_is_refused(text, words, root):
    (root / "list.toml").write_text(text)
    if words:
        with pytest.raises(ValueError, match=words):
            equivalents(root, root / "list.toml")
    else:
        assert len(equivalents(root, root / "list.toml")) == 1


def test_every_entry_of_the_list_is_still_of_the_sources():
    assert equivalents(ROOT)


def test_a_list_that_is_refused_stops_a_run_before_anything_is_tried(tmp_path, monkeypatch, capsys):
    def refused(root):
        raise ValueError("take the entry out")

    monkeypatch.setattr("trials.mutants.equivalents", refused)
    with pytest.raises(typer.Exit) as ended:
        main(jobs=1, report_dir=tmp_path)
    assert ended.value.exit_code == 2
    assert "take the entry out" in capsys.readouterr().err
    assert not (tmp_path / "cpu").exists()
