"""The command: what it runs and says, its exit status, and commands that others register."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import typer
from rich.table import Table

from twinvae import __main__, registry
from twinvae.bench import checking, cli
from twinvae.bench.checking import run_suites, suite_options
from twinvae.bench.cli import main
from twinvae.bench.options import NAMES
from twinvae.bench.places import BASELINES, ROOT, SUITES, alone
from twinvae.bench.records import read_run
from twinvae.bench.report import Summary
from twinvae.commands import GROUP

ONE = "suites/parity/test_posterior.py::test_a_posterior_is_that_of_diffusers[float32-ordinary-numpy]"


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def told(monkeypatch) -> list[str]:
    """What pytest would be run with."""
    arguments: list[str] = []
    monkeypatch.setattr(checking.pytest, "main", lambda given: arguments.extend(given) or 0)
    return arguments


def test_a_test_is_checked_in_an_empty_folder_and_its_page_is_written_there(empty, capsys):
    assert main(["check", "flax", "--suite", "parity", "--preset", "tiny", "--platform", "cpu", "--", ONE, "-q"]) == 0
    run = read_run(empty / "reports" / "local" / "cpu" / "records" / "parity.jsonl")
    assert [record.test for record in run.records] == [ONE]
    assert run.run.selection.backends == ("flax",)
    assert not run.complete
    page = (empty / "reports" / "local" / "cpu" / "parity.md").read_text()
    assert "1 pass" in page  # against the stored baseline: without one it would be new
    assert "reports/local/cpu/index.md" in capsys.readouterr().out.replace("\n", "")


def test_a_check_takes_every_option_of_the_suites_and_hands_the_rest_to_pytest(told, empty):
    debugging = {"--debug-nans", "--trace-dir", "--log-compiles", "--compile-cache", "--no-compile-cache"}
    assert {option.name for option in suite_options()} - debugging - {"--one-round"} == {f"--{name}" for name in NAMES}
    given = ["--suite", "parity,tiling", "--dtype", "float32", "--baseline-dir", "here", "--", "-k", "posterior"]
    assert main(["check", "flax", *given]) == 0
    assert told[told.index("-c") + 1].endswith("pytest.ini")
    assert f"--rootdir={ROOT}" in told
    assert told[told.index(str(SUITES / "parity")) :] == [
        str(SUITES / "parity"), str(SUITES / "tiling"),
        "--backend=flax", "--dtype=float32", "--baseline-dir=here", "-k", "posterior",
    ]  # fmt: skip


def test_a_check_of_no_named_suite_runs_all(told):
    assert main(["check", "flax"]) == 0
    assert {str(SUITES / name) for name in ("parity", "tiling", "frames", "memory", "speed")} <= set(told)


@pytest.mark.parametrize(("of_pytest", "status"), [(0, 0), (1, 1), (2, 2), (3, 2), (4, 2), (5, 2)])
def test_what_pytest_could_not_do_is_status_2(monkeypatch, of_pytest, status):
    monkeypatch.setattr(checking.pytest, "main", lambda given: of_pytest)
    assert main(["check", "flax", "--suite", "parity"]) == status


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "flax", "--suite", "paritty"], "--suite: unknown 'paritty'; choose from frames, generation, memory"),
        (["check", "flax", "--suite", ","], "--suite: found no name; choose from frames"),
        (["check", "keras", "--suite", "parity"], "--backend keras: unknown 'keras'; choose from flax"),
        (["check", "flax", "--report-dir", "file"], "file is a file; name a folder for records and pages"),
        (["check", "flax", "--baseline-dir", "none"], "--baseline-dir none: no such folder"),
        (["plan", "81x480"], "81x480: expected frames x height x width of the video"),
        (["plan", "8x64x96", "--chip", "v9"], "--chip v9: unknown chip; choose one of v5e, v6e"),
        (["plan", "8x64x96", "--devices", "2"], "name it, as in --chip v6e"),
        (["plan", "8x64x96", "--operation", "both"], "expected decode or encode"),
        (["plan", "8x64x96", "--backend", "torch", "--preset", "tiny"], "compiles nothing"),
        (["report"], "no records in reports/local: run a suite first"),
    ],
)
def test_bad_input_is_status_2_with_words_and_nothing_written(empty, capsys, arguments, words):
    (empty / "file").write_text("mine")
    assert main(arguments) == 2
    assert words in capsys.readouterr().err
    assert [path.name for path in empty.iterdir()] == ["file"]


@pytest.mark.parametrize("failing", [(), ("cpu",), ("gpu-h100",), ("tpu-v6e",), ("cpu", "tpu-v6e")])
def test_a_report_is_status_1_whichever_of_the_platforms_failed(empty, monkeypatch, failing):
    for name in ("cpu", "gpu-h100", "tpu-v6e"):
        records = empty / "reports" / "local" / name / "records"
        records.mkdir(parents=True)
        (records / "parity.jsonl").touch()
    monkeypatch.setattr(
        cli, "write_report", lambda reports, baselines, name: Summary(name in failing, Table(), (), Path("index.md"))
    )
    assert main(["report"]) == bool(failing)


def test_baselines_that_are_missing_from_what_is_installed_are_noticed(empty, monkeypatch, capsys):
    monkeypatch.setattr("twinvae.bench.options.BASELINES", empty / "baselines")
    assert main(["check", "flax", "--suite", "parity"]) == 2
    assert "missing from what is installed: install twinvae again" in capsys.readouterr().err


def test_a_plan_says_the_form_and_fails_where_nothing_fits(capsys):
    clip = ["plan", "9x64x96", "--preset", "tiny", "--dtype", "float32"]
    assert main(clip) == 0
    assert "decode [1, 3, 8, 12, 4]: whole" in capsys.readouterr().out
    assert main(["plan", "8x64x96", *clip[2:]]) == 0
    assert "decode [1, 2, 8, 12, 4]: whole" in capsys.readouterr().out
    assert main([*clip, "--operation", "encode"]) == 0
    assert "encode [1, 9, 64, 96, 3]: whole" in capsys.readouterr().out
    assert main([*clip, "--operation", "encode", "--memory-budget", "1MiB"]) == 1
    assert "fits in no form into 1.0 MiB" in capsys.readouterr().out


def test_backends_are_listed_with_their_modules(capsys):
    assert main(["backends"]) == 0
    printed = capsys.readouterr().out
    assert "impl_torchax" in printed
    assert "twinvae.torch.reference" in printed


def test_a_list_of_names_is_completed_at_its_last():
    complete = cli._starting_with("parity", "planes", "tiling")
    assert complete("pa") == ["parity"]
    assert complete("tiling,p") == ["tiling,parity", "tiling,planes"]


def hello(name: str) -> None:
    """Greet."""
    print(f"hello {name}")


many = typer.Typer()
many.command("one")(hello)
many.command("other")(hello)


@pytest.fixture
def commands(monkeypatch) -> None:
    values = {"hello": f"{__name__}:hello", "many": f"{__name__}:many", "gone": "no_such_module:app"}
    points = {name: EntryPoint(name, value, GROUP) for name, value in values.items()}
    monkeypatch.setattr(cli, "registered", lambda: points)


def test_others_register_functions_and_apps_and_one_that_is_broken_breaks_no_other(commands, capsys):
    assert main(["hello", "you"]) == 0
    assert main(["many", "other", "me"]) == 0
    assert capsys.readouterr().out == "hello you\nhello me\n"
    assert main(["gone", "--whatever", "3"]) == 2
    assert "gone cannot be loaded from no_such_module:app: ModuleNotFoundError" in capsys.readouterr().err
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "Greet." in shown
    assert "gone cannot be loaded" in shown
    assert "Exit status: 0 well; 1 something got worse" in shown


def test_nothing_of_others_is_loaded_for_our_own_commands(monkeypatch, capsys):
    monkeypatch.setattr(cli, "command_of", lambda point: pytest.fail("loaded"))
    monkeypatch.setattr(cli, "registered", lambda: {"gone": EntryPoint("gone", "no_such_module:app", GROUP)})
    assert main(["backends"]) == 0
    assert main(["chek"]) == 2


def test_without_the_suites_packages_the_command_says_what_to_install(monkeypatch, capsys):
    wanted = ["jax>=0.10", 'not-there>=9; extra == "suites"', "typer>=0.29; extra == 'suites'", 'nox; extra == "dev"']
    monkeypatch.setattr(__main__, "requires", lambda name: wanted)
    assert __main__.main(["check", "flax"]) == 2
    said = capsys.readouterr().err
    assert "packages that are not installed: not-there; pip install 'twinvae[suites]'" in said


def test_a_command_of_an_extra_asks_for_that_extra_s_packages_alone(monkeypatch, capsys):
    wanted = ["not-there>=9; extra == 'suites'", "nor-this; extra == 'stages'"]
    monkeypatch.setattr(__main__, "entry_points", lambda group: [EntryPoint("text", "stages.commands:text", group)])
    monkeypatch.setattr(__main__, "extras", lambda: ["stages", "suites"])
    monkeypatch.setattr(__main__, "requires", lambda name: wanted)
    assert __main__.main(["text", "--dir", "x"]) == 2
    assert "not installed: nor-this; pip install 'twinvae[stages]'" in capsys.readouterr().err


def test_an_extra_s_packages_are_those_of_the_extras_in_it_as_well(monkeypatch):
    wanted = ["twinvae[stages]; extra == 'suites'", "nor-this; extra == 'stages'"]
    monkeypatch.setattr(__main__, "requires", lambda name: wanted)
    assert __main__.missing("suites") == ["nor-this"]


def test_tracebacks_are_shown_of_tests_that_are_named(monkeypatch):
    given = []
    monkeypatch.setattr(checking.pytest, "main", lambda arguments: given.append(arguments) or 0)
    for more in ([], ["suites/parity/test_outputs.py"], [ONE]):
        run_suites(["parity"], {}, more)
    assert ["--tb=no" in arguments for arguments in given] == [True, True, False]


def test_the_command_a_test_is_run_alone_with_is_of_the_wheel_where_there_is_no_checkout(monkeypatch):
    options = ("--backend=flax", "--dtype=float32")
    assert alone(ONE, options) == f"pytest '{ONE}' --backend=flax --dtype=float32"
    monkeypatch.setattr("twinvae.bench.places.CHECKOUT", None)
    assert alone(ONE, options) == f"twinvae check flax --dtype=float32 -- '{ONE}'"
    assert alone(ONE, ["--outputs=cases"]) == f"twinvae check --outputs=cases -- '{ONE}'"


def test_the_baselines_lie_beside_the_suites_and_backends_come_from_entry_points():
    assert (BASELINES / "cpu" / "parity.json").is_file()
    assert set(registry.installed()) == set(registry.backends())
