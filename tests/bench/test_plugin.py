"""A run of a suite leaves a run file and a page, whatever becomes of it; unit tests leave neither."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import suites.conftest  # noqa: F401, whose fixtures the suite that is made up below takes
from twinvae.bench import PLUGINS, metrics, options, places, plugin, report
from twinvae.bench.clips import synthetic_clip
from twinvae.bench.plugin import is_complete
from twinvae.bench.records import read_run
from twinvae.capabilities import CAPABILITIES

ROOT = Path(__file__).parents[2]
SUITE = ROOT / "suites" / "parity"
QUICK = f"{SUITE / 'test_posterior.py'}::test_a_posterior_is_that_of_diffusers"
OPTIONS = ("--dtype", "float32", "--seed", "3", "--platform", "cpu")


@pytest.fixture
def run(tmp_path, monkeypatch) -> Callable[..., int]:
    """pytest inside of pytest, with its reports in a folder of its own."""
    monkeypatch.chdir(ROOT)

    def run(*arguments: str) -> int:
        return pytest.main(
            [*arguments, *OPTIONS, "--report-dir", str(tmp_path / "out"), "-p", "no:cacheprovider", "-q"]
        )

    return run


@pytest.fixture
def read(tmp_path) -> Callable[[], Any]:
    return lambda: read_run(tmp_path / "out" / "cpu" / "records" / "parity.jsonl")


def test_a_run_leaves_its_records_with_what_the_options_say_and_a_page(run, read, tmp_path, capsys):
    assert run(QUICK) == 0
    data = read()
    assert len(data.records) == 6
    assert {(r.suite, r.dtype, r.metric) for r in data.records} == {("parity", "float32", "relative_l2")}
    assert all(record.test.startswith("suites/parity/test_posterior.py::") for record in data.records)
    assert (data.run.seed, data.run.selection.dtypes, data.run.clip) == (3, ("float32",), "synthetic")
    assert "--seed=3" in data.run.options
    assert (data.end.complete, data.end.exit_status, data.failures) == (False, 0, ())
    assert "Only a part" in (tmp_path / "out" / "cpu" / "parity.md").read_text()
    printed = capsys.readouterr().out
    assert "verdicts" in printed
    assert str(tmp_path / "out" / "cpu" / "index.md") in printed.replace("\n", "")


def test_a_run_whose_tests_take_no_model_misses_no_values_of_presets_that_were_not_chosen(run, read):
    assert run(f"{QUICK}[float32-ordinary-numpy]", "--preset", "tiny") == 0
    selection = read().run.selection
    assert selection.presets == ("tiny",)
    assert not selection.holds("flax", "jit", "float32", "cogvideox-2b")


def test_a_value_past_its_limit_fails_its_test_and_says_how_to_run_it_again(run, read, monkeypatch):
    monkeypatch.setattr(metrics, "relative_l2", lambda found, expected: 0.5)
    assert run(f"{QUICK}[float32-ordinary-numpy]") == 1
    (failure,) = read().failures
    assert failure.message == "posterior, ordinary, numpy float32 relative_l2: 0.5, past its limit"
    assert failure.rerun.startswith("pytest 'suites/parity/test_posterior.py::")
    assert "--dtype=float32 --seed=3" in failure.rerun
    assert failure.dtype == "float32"


def test_a_test_that_raises_is_recorded_with_its_first_line(run, read, monkeypatch):
    def broken(found: Any, expected: Any) -> float:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(metrics, "relative_l2", broken)
    assert run(f"{QUICK}[float32-ordinary-numpy]") == 1
    assert [failure.message for failure in read().failures] == ["RuntimeError: first line"]


def test_an_interrupted_run_reports_what_it_had_measured(run, read, monkeypatch, tmp_path):
    measured = []

    def interrupted(found: Any, expected: Any) -> float:
        measured.append(found)
        if len(measured) > 7:
            raise KeyboardInterrupt
        return 0.0

    monkeypatch.setattr(metrics, "relative_l2", interrupted)
    assert run(QUICK) == pytest.ExitCode.INTERRUPTED
    data = read()
    assert len(data.records) == 1
    assert data.end.complete is False
    assert "Interrupted" in (tmp_path / "out" / "cpu" / "parity.md").read_text()


def test_a_report_that_failed_fails_a_run_whose_tests_passed(run, monkeypatch):
    write = report.write_report
    monkeypatch.setattr(plugin, "write_report", lambda *folders: write(*folders)._replace(failed=True))
    assert run(f"{QUICK}[float32-ordinary-numpy]") == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--mode", "lazy"), "--mode lazy: unknown 'lazy'"),
        (("--clip", "short.npy"), "short.npy: found 3 frames, asked for 17: use a longer clip"),
    ],
)
def test_bad_options_stop_a_run_before_it_writes_anything(arguments, words, run, tmp_path, capsys, monkeypatch):
    np.save(tmp_path / "short.npy", synthetic_clip(3, 16, 16)[0])
    given = [str(tmp_path / argument) if argument.endswith(".npy") else argument for argument in arguments]
    assert run(str(SUITE / "test_growth.py"), "--preset", "tiny", *given) == pytest.ExitCode.USAGE_ERROR
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nan_in_the_clip_is_said_on_the_page(run, read, tmp_path):
    stored = synthetic_clip(9, 16, 16)[0]
    stored[4] = np.nan
    np.save(tmp_path / "nan.npy", stored)
    case = "test_no_block_departs_from_the_reference[tiny-torch-eager-float32-encode]"
    given = ("--preset", "tiny", "--backend", "torch", "--clip", str(tmp_path / "nan.npy"))
    assert run(f"{SUITE / 'test_growth.py'}::{case}", *given) == 0
    assert (read().run.nan_input, read().run.clip) == (True, "nan.npy")
    assert "The clip holds NaN" in (tmp_path / "out" / "cpu" / "parity.md").read_text()


def test_unit_tests_leave_no_records(run, tmp_path):
    assert run(str(ROOT / "tests" / "bench" / "test_metrics.py"), "-k", "grade") == 0
    assert not (tmp_path / "out").exists()


FILES = {Path("suites/s/test_a.py"), Path("suites/s/test_b.py")}
WHOLE = {Path("suites/s/test_a.py"): {"a1", "a2"}, Path("suites/s/test_b.py"): {"b"}}
COMPLETE: dict[str, tuple[dict[Path, set[str]], set[str], bool]] = {
    "all": (WHOLE, {"a1", "a2", "b"}, True),
    "other suites beside it": (WHOLE | {Path("tests/test_c.py"): {"c"}}, {"a1", "a2", "b"}, True),
    "a test left out": (WHOLE, {"a1", "b"}, False),
    "a file ignored": ({Path("suites/s/test_a.py"): {"a1", "a2"}}, {"a1", "a2"}, False),
    "a file skipped whole": (WHOLE | {Path("suites/s/test_b.py"): set()}, {"a1", "a2"}, False),
}


@pytest.mark.parametrize("case", COMPLETE)
def test_a_run_is_complete_when_every_test_of_every_file_was_tried(case):
    held, tried, expected = COMPLETE[case]
    assert is_complete(FILES, held, tried) is expected


TINY_SUITE = {
    "test_one.py": """
        import pytest
        def test_measures(record):
            record(case="one", metric="x", value=1.0)
        @pytest.mark.skip(reason="not here")
        def test_skipped(): ...
        @pytest.mark.parametrize("n", [1, 2])
        def test_fails_at_two(n):
            assert n < 2
    """,
    "test_two.py": """
        import pytest
        @pytest.fixture
        def broken():
            raise RuntimeError
        def test_cannot_begin(broken): ...
        def test_passes(): ...
    """,
}
CUT: dict[str, tuple[str, ...]] = {
    "-k": ("-k", "measures"),
    "-m": ("-m", "not skip"),
    "--deselect": ("--deselect", "suites/tiny/test_two.py::test_passes"),
    "--ignore": ("--ignore=suites/tiny/test_two.py",),
    "--ignore-glob": ("--ignore-glob=*two.py",),
    "-x": ("-x",),
    "--maxfail": ("--maxfail=2",),
    "--stepwise": ("--stepwise",),
    "--lf": ("--lf",),
}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A suite of six tests, run by the plugin in a folder of its own."""
    suite = tmp_path / "suites" / "tiny"
    suite.mkdir(parents=True)
    (tmp_path / "suites" / "conftest.py").write_text("from suites.conftest import *")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for name, text in TINY_SUITE.items():
        (suite / name).write_text(textwrap.dedent(text))
    for module in (places, plugin, options):
        monkeypatch.setattr(module, "SUITES", tmp_path / "suites", raising=False)
    monkeypatch.chdir(tmp_path)
    plugins = (*(part for name in PLUGINS for part in ("-p", name)), "-p", "no:randomly", "--import-mode=importlib")

    def run(*arguments: str) -> Any:
        cut = any("suites/" in argument and not argument.startswith("-") for argument in arguments)
        where = () if cut and "--deselect" not in arguments else ("suites/tiny",)
        pytest.main([*plugins, *where, *arguments, *OPTIONS, "--report-dir", "out", "-q"])
        return read_run(tmp_path / "out" / "cpu" / "records" / "tiny.jsonl")

    return run


def test_a_whole_run_is_complete_with_its_failures_and_what_is_skipped(tiny):
    assert tiny().complete
    assert tiny("--ff").complete
    assert len(tiny().failures) == 2


@pytest.mark.parametrize("way", CUT)
def test_a_run_that_was_cut_down_is_not_complete(tiny, way):
    if way == "--lf":
        tiny()  # fails in both files, of which only the failures run again
    assert tiny(*CUT[way]).complete is False


@pytest.mark.parametrize("argument", ["suites/tiny/test_one.py", "suites/tiny/test_one.py::test_measures"])
def test_a_file_or_a_test_of_a_suite_is_not_complete(tiny, argument):
    assert tiny(argument).complete is False


@pytest.mark.parametrize("option", ["--collect-only", "--setup-plan", "--setup-only"])
def test_a_run_that_measures_nothing_leaves_the_records_of_the_last(tiny, option):
    before = tiny()
    assert tiny(option) == before
    assert before.complete


def needing(backend: str | None, *names: str) -> SimpleNamespace:
    item = SimpleNamespace(nodeid="suites/x.py::test_y", iter_markers=lambda name: [SimpleNamespace(args=names)])
    return (
        item
        if backend is None
        else SimpleNamespace(**vars(item), callspec=SimpleNamespace(params={"backend": backend}))
    )


def test_what_a_backend_does_not_say_that_it_can_is_not_judged(monkeypatch):
    monkeypatch.setattr(plugin, "capabilities_of", lambda backend: {"flax": CAPABILITIES, "port": {"whole"}}[backend])
    assert plugin.lacks(needing("flax", "stream", "step")) == []
    assert plugin.lacks(needing("port", "stream", "whole", "step")) == ["step", "stream"]
    assert plugin.lacks(needing("port")) == plugin.lacks(needing(None, "stream")) == []
    with pytest.raises(pytest.UsageError, match=r"needs\(\) has no teleport"):
        plugin.lacks(needing("flax", "teleport"))


def test_what_was_not_judged_is_counted_by_backend_and_reason(monkeypatch):
    monkeypatch.setattr(plugin, "capabilities_of", lambda backend: {"whole"})
    items = [needing("port", "stream"), needing("port", "stream"), needing("port", "layers"), needing("port", "whole")]
    assert plugin._unjudged(items) == ("port: layers (1 test)", "port: stream (2 tests)")
