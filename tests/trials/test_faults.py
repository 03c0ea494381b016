"""Faults on trial, without models: the catalogue fits the checkout; planting, alarms and time limits work."""

from __future__ import annotations

import builtins
import contextlib
import dis
import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import CodeType, SimpleNamespace

import psutil
import pytest

from tests.bench.synthetic import write_run
from tests.trials.made_up import BASE, EDIT, fault
from trials.alarm import Alarm, Outcome
from trials.catalogue import Fault, read_catalogue
from trials.faults import selected
from trials.order import ANSWERABLE, STAGES, SUITES, Stage, files, from_the_first, in_order
from trials.planting import ROOT, changes, checkout_copy, in_place
from trials.processes import import_once, loaded, run_pytest
from trials.soak import SEEDS, setting
from trials.trial import LIMIT, backends_of, run_pytest_in, run_tests, run_trial
from twinvae.bench.options import OPTIONS
from twinvae.bench.plugin import FILES
from twinvae.bench.records import Record

CATALOGUE = read_catalogue()
LEAST = {"impl_flax": 35, "impl_torchax": 15, "twinvae": 30}
LEAST_OF_COST = 20


# The catalogue


def test_the_catalogue_holds_enough_of_every_kind():
    for package, least in LEAST.items():
        assert sum(one.files[0].startswith(f"{package}/") for one in CATALOGUE) >= least
    assert sum(one.kind == "cost" for one in CATALOGUE) >= LEAST_OF_COST


@pytest.mark.parametrize("one", CATALOGUE, ids=lambda one: one.name)
def test_a_fault_has_its_place_in_the_checkout_and_compiles(one):
    for file, (_, text) in changes(one, ROOT).items():
        module = compile(text, file, "exec")
        known = _names(module, "STORE_NAME") | set(dir(builtins)) | {"__file__"}
        assert _names(module, "LOAD_GLOBAL") <= known


def test_the_suite_that_a_fault_is_meant_for_answers_for_its_kind():
    assert {one.name for one in CATALOGUE if one.suite not in ANSWERABLE[one.kind]} == set()


def test_every_suite_answers_for_one_kind_and_only_its_files_are_collected():
    assert sorted(suite for suites in ANSWERABLE.values() for suite in suites) == sorted(SUITES)
    for suites in ANSWERABLE.values():
        assert {Path(file).parts[1] for file in files(suites)} == set(suites)


def _names(code: CodeType, operation: str) -> set[str]:
    """The names that a piece of code, and what is defined in it, loads or stores in that way."""
    inner = [_names(part, operation) for part in code.co_consts if isinstance(part, CodeType)]
    return {step.argval for step in dis.get_instructions(code) if step.opname == operation}.union(*inner)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[[fault]\n", "broken.toml is not TOML"),
        ("[[faults]]\n", r"broken.toml holds faults: expected a list of \[\[fault\]\]"),
        ('[[fault]]\nname = "one"\n', r"broken.toml, fault 1: models: Field required"),
        ("", "broken.toml holds nothing"),
    ],
)
def test_a_catalogue_that_is_not_valid_is_refused_with_its_file_and_fault(content, words, tmp_path):
    (tmp_path / "broken.toml").write_text(content)
    with pytest.raises(ValueError, match=words):
        read_catalogue(tmp_path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"replace": "x = 1"}, "it is no fault"),
        ({"file": "/etc/passwd"}, "outside of the checkout"),
        ({"file": "../port.py"}, "outside of the checkout"),
        ({"find": ""}, "find"),
        ({"edit": []}, "edit"),
        ({"edit": [EDIT]}, "both edits and a file"),
        ({"name": "Not A Slug"}, "name"),
        ({"kind": "speed"}, "kind"),
    ],
)
def test_a_fault_that_is_not_valid_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        fault(**fields)


def test_a_fault_without_an_edit_is_refused():
    with pytest.raises(ValueError, match=r"edit\.0\.file"):
        Fault.model_validate({"group": "axes"} | BASE)


def test_two_faults_of_one_name_are_refused(tmp_path):
    for name in ("a", "b"):
        lines = [f"{key} = {json.dumps(value)}" for key, value in (BASE | EDIT).items()]
        (tmp_path / f"{name}.toml").write_text("\n".join(["[[fault]]", *lines]))
    with pytest.raises(ValueError, match="faults of one name: one"):
        read_catalogue(tmp_path)


def test_faults_are_chosen_by_name_class_and_kind():
    chosen = selected(CATALOGUE, ["kernel-*", "posterior"], None)
    assert {one.group for one in chosen} >= {"axes", "posterior"}
    assert all(one.group == "posterior" or one.name.startswith("kernel-") for one in chosen)
    assert {one.kind for one in selected(CATALOGUE, [], "cost")} == {"cost"}
    with pytest.raises(ValueError, match="no-such-fault: no fault and no class"):
        selected(CATALOGUE, ["no-such-fault"], None)


# Planting


def test_a_fault_is_there_inside_the_block_and_gone_after_it_whatever_happens(tmp_path):
    port = tmp_path / "port.py"
    port.write_text("x = 1\ny = 3\n")
    edits = [EDIT, {"file": "port.py", "find": "y = 3", "replace": "y = x"}]
    two = Fault.model_validate({"group": "axes", "edit": edits} | BASE)
    texts = changes(two, tmp_path)
    assert texts == {"port.py": ("x = 1\ny = 3\n", "x = 2\ny = x\n")}
    with contextlib.suppress(KeyboardInterrupt), in_place(texts, tmp_path):
        assert port.read_text() == "x = 2\ny = x\n"
        raise KeyboardInterrupt
    assert port.read_text() == "x = 1\ny = 3\n"


def test_a_planted_fault_of_the_same_size_is_seen_by_python_at_once(tmp_path):
    (tmp_path / "port.py").write_text("x = 1\n")

    def seen() -> str:
        command = [sys.executable, "-c", "import port; print(port.x)"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()

    assert seen() == "1"
    with in_place(changes(fault(), tmp_path), tmp_path):
        assert seen() == "2"
    assert seen() == "1"


@pytest.mark.parametrize("content", [None, "x = 3\n", "x = 1\nx = 1\n"])
def test_a_fault_whose_place_is_gone_is_stale_and_writes_nothing(content, tmp_path):
    if content is not None:
        (tmp_path / "port.py").write_text(content)
    with pytest.raises((FileNotFoundError, ValueError)):
        changes(fault(), tmp_path)
    assert run_trial(fault(), tmp_path).status == "stale"
    assert content is None or (tmp_path / "port.py").read_text() == content


@pytest.mark.parametrize("git", [True, False])
def test_a_copy_holds_the_sources_and_not_what_is_ignored(git, tmp_path):
    root = tmp_path / "root"
    for name in ("package/port.py", ".venv/huge", "package/__pycache__/port.pyc"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x = 1\n")
    (root / ".gitignore").write_text(".venv/\n__pycache__/\n")
    if git:
        subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    copy = checkout_copy(tmp_path / "copy", root)
    found = {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()}
    assert found == {"package/port.py", ".gitignore"}


# The order of tests


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["impl_flax/layers.py"], ("flax",)),
        (["impl_torchax/modules.py", "impl_torchax/lowerings.py"], ("torchax",)),
        (["impl_flax/layers.py", "impl_torchax/lowerings.py"], ("flax", "torchax")),
        (["twinvae/jax/slabs.py"], ("flax", "torchax")),
    ],
)
def test_a_fault_in_one_backend_is_looked_for_there(files, expected):
    assert backends_of(files) == expected


def test_tests_run_in_the_order_of_stages_one_backend_after_the_other():
    stages = (Stage("a.py::test_x", ("float64",)), Stage("b.py"), Stage("a.py"))
    ids = [f"a.py::test_x[{backend}-{dtype}-{case}]" for dtype in ("bfloat16", "float64")
           for backend in ("flax", "torchax") for case in "pq"]  # fmt: skip
    found = in_order([*ids, "b.py::test_y", "c.py::test_z"], ("flax", "torchax"), stages)
    assert found == [
        "a.py::test_x[flax-float64-p]",
        "a.py::test_x[flax-float64-q]",
        "b.py::test_y",
        "a.py::test_x[flax-bfloat16-p]",
        "a.py::test_x[flax-bfloat16-q]",
        "a.py::test_x[torchax-float64-p]",
        "a.py::test_x[torchax-float64-q]",
        "a.py::test_x[torchax-bfloat16-p]",
        "a.py::test_x[torchax-bfloat16-q]",
    ]
    assert "c.py::test_z" not in found


@pytest.mark.parametrize(
    ("first", "soonest", "expected"),
    [("", "", "abc"), ("b", "", "bc"), ("", "c", "cab"), ("b", "a", "abc"), ("b", "c", "cb"), ("z", "", "abc")],
)
def test_a_trial_begins_with_the_test_that_sees_its_fault_soonest(first, soonest, expected):
    assert from_the_first(["a", "b", "c"], first, soonest) == [*expected]


def test_what_is_said_to_see_a_fault_soonest_goes_to_the_suites_and_has_to_be_there(monkeypatch, tmp_path):
    given = []
    monkeypatch.setattr("trials.trial.run_pytest_in", lambda copy, arguments, limit: given.extend(arguments))
    run_tests(fault(seen_by="c"), {"port.py": ("x = 1", "x = 2")}, tmp_path, LIMIT, {})
    assert given[given.index("--soonest") + 1] == "c"
    with pytest.raises(pytest.UsageError, match="--soonest c: it is no test of the quick form"):
        from_the_first(["a", "b"], "", "c")


def test_every_stage_names_a_test_that_exists():
    assert all((ROOT / file).is_file() for file in files())
    for stage in STAGES:
        file, _, name = stage.test.partition("::")
        assert not name or f"def {name}(" in (ROOT / file).read_text(), stage.test


# Processes

ALONE = ("test_alone.py", "-p", "no:cacheprovider", "-p", "no:randomly")


@pytest.fixture(scope="module")
def _imported_once(tmp_path_factory) -> None:
    """What takes seconds is done before the first limit on time."""
    import_once()
    folder = tmp_path_factory.mktemp("first")
    assert run_pytest(["--version"], folder, folder / "output", limit=120) == 0


@pytest.fixture
def copy(tmp_path, _imported_once) -> Path:
    """A checkout of tests alone."""
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "pytest.ini").write_text("[pytest]\n")
    return tmp_path / "copy"


def alone(copy: Path, body: str) -> Path:
    """The same, with a test of this body."""
    (copy / "test_alone.py").write_text(f"def test_alone():\n{textwrap.indent(textwrap.dedent(body), '    ')}\n")
    return copy


def test_a_process_that_hangs_is_killed_with_its_children(copy):
    body = """
        import pathlib, subprocess
        sleeps = subprocess.Popen(["sleep", "60"])
        pathlib.Path("grandchild").write_text(str(sleeps.pid))
        sleeps.wait()
    """
    began = time.monotonic()
    assert run_pytest(ALONE, alone(copy, body), copy / "output", limit=6) is None
    assert time.monotonic() - began < 20
    grandchild = int((copy / "grandchild").read_text())
    gone = lambda: not psutil.pid_exists(grandchild) or psutil.Process(grandchild).status() == psutil.STATUS_ZOMBIE  # noqa: E731
    deadline = time.monotonic() + 5
    while not gone() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert gone()


def test_a_process_is_stopped_once_its_alarm_is_written(copy):
    body = "import time\nopen('alarm.json', 'w').write('{}')\ntime.sleep(60)"
    began = time.monotonic()
    assert run_pytest(ALONE, alone(copy, body), copy / "output", limit=50, until=copy / "alarm.json") == 0
    assert time.monotonic() - began < 40


@pytest.mark.parametrize(("body", "status"), [("pass", 0), ("assert False", 1), ("raise SystemExit(4)", 1)])
def test_a_process_gives_its_exit_status(body, status, copy):
    assert run_pytest(ALONE, alone(copy, body), copy / "output", limit=60) == status


@pytest.mark.parametrize("started_as", ["trials.mutants", "trials.soak"])
def test_a_process_imports_the_project_from_its_own_folder(started_as, copy):
    for package in ("trials", "suites"):
        (copy / package).mkdir()
        (copy / package / "__init__.py").write_text("PLACE = 'the copy'\n")
    alone(copy, "import trials, suites\nassert trials.PLACE == suites.PLACE == 'the copy'")
    run = f"""
        import importlib.util, pathlib, sys
        import trials.processes
        sys.modules["__main__"].__spec__ = importlib.util.find_spec({started_as!r})
        folder = pathlib.Path({str(copy)!r})
        sys.exit(trials.processes.run_pytest({ALONE!r}, folder, folder / "output", limit=60))
    """
    command = [sys.executable, "-c", textwrap.dedent(run)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (copy / "output").read_text()


def test_a_loaded_machine_has_a_busy_process_for_each_core_until_the_block_is_left():
    before = len(psutil.Process().children())
    with loaded():
        assert len(psutil.Process().children()) == before + psutil.cpu_count()
    assert len(psutil.Process().children()) == before


# The alarm


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("assert True", ("clean", "", "", "no test failed")),
        ("assert 1 == 2", ("alarm", "test_alone.py::test_alone", "failed test", "assert 1 == 2")),
        ("raise TypeError('late')", ("alarm", "test_alone.py::test_alone", "failed test", "TypeError: late")),
        ("import no_such_module", ("broken", "test_alone.py::test_alone", "failed test", "ModuleNotFoundError: No m")),
        ("no_such_name", ("broken", "test_alone.py::test_alone", "failed test", "NameError: name 'no_such_name'")),
        ("return )", ("broken", "test_alone.py", "", "SyntaxError")),
    ],
)
def test_tests_end_at_the_first_failure_which_is_named(body, expected, copy):
    outcome = run_pytest_in(alone(copy, body), ["test_alone.py"], limit=60)
    assert (outcome.status, outcome.test, outcome.evidence) == expected[:3]
    assert expected[3] in outcome.what
    assert outcome.seconds > 0


def test_tests_that_do_not_end_are_stopped(copy):
    assert run_pytest_in(alone(copy, "import time; time.sleep(60)"), ["test_alone.py"], limit=4) is None


def test_no_further_test_is_begun_when_the_time_is_over_and_earlier_tests_count(copy):
    (copy / "test_alone.py").write_text("def test_a():\n    pass\n\ndef test_b():\n    raise ValueError\n")
    given = ("--alarm", "alarm.json", "--started", str(time.time() - 50), "--lasts", "40", "--spent", "100")
    run_pytest([*ALONE, "-p", "trials.alarm", *given], copy, copy / "output", 60)
    outcome = Outcome.model_validate_json((copy / "alarm.json").read_text())
    assert (outcome.status, outcome.test, outcome.what) == ("clean", "test_alone.py::test_a", "stopped after 40 s")
    assert outcome.seconds > 150


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [("exact", 2.0, "norm max_abs: "), ("exact", 0.5, ""), ("ratio", 2.0, ""), ("absolute", 2.0, "")],
)
def test_an_exact_value_past_its_limit_raises_an_alarm_and_no_time_does(kind, value, said, tmp_path):
    record = Record(suite="parity", case="norm", metric="max_abs", value=value, limit=1.0, kind=kind)
    folder = write_run(tmp_path, [record], complete=None).folder
    options = SimpleNamespace(baseline_dir=tmp_path, platform="cpu")
    stash = {FILES: {"parity": SimpleNamespace(path=folder / "parity.jsonl")}, OPTIONS: options}
    alarm = Alarm(SimpleNamespace(stash=stash))
    assert alarm.worse("speed") == ""
    assert alarm.worse("parity").startswith(said)
    assert bool(alarm.worse("parity")) == bool(said)


# Soak


def test_soak_settings_repeat_with_and_without_load_and_change_seeds_and_clips():
    settings = [setting(run) for run in range(16)]
    assert [one["loaded"] for one in settings[:4]] == [False, True, False, True]
    assert {one["seed"] for one in settings} == set(SEEDS)
    assert (settings[0]["seed"], settings[0]["clip"]) == (SEEDS[0], "synthetic")
    assert len({one["clip"] for one in settings}) > 2


def test_a_share_of_the_tests_is_drawn_and_put_in_order_by_the_seed(copy):
    (copy / "test_alone.py").write_text("".join(f"def test_{number}():\n    pass\n" for number in range(40)))

    def drawn(seed: int, share: float = 0.3) -> list[str]:
        plugins = ("-p", "randomly", f"--randomly-seed={seed}", "-p", "trials.share", f"--share={share}", "-v")
        run_pytest([*ALONE, *plugins], copy, copy / "output", 60)
        return [line.split()[0] for line in (copy / "output").read_text().splitlines() if "PASSED" in line]

    first = drawn(1)
    assert 3 < len(first) < 25
    assert first == drawn(1) != drawn(2)
    assert first != sorted(first)
    assert len(drawn(1, 1.0)) == 40
