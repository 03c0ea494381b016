"""A run of a suite leaves a run file and a page, whatever becomes of it; unit tests leave neither."""

from __future__ import annotations

import contextlib
import itertools
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from _pytest.runner import runtestprotocol
from rich.table import Table

import suites.conftest  # noqa: F401, whose fixtures the suite that is made up below takes
from twinvae.bench import PLUGINS, metrics, options, places, plugin, report
from twinvae.bench.clips import synthetic_clip
from twinvae.bench.models import Model
from twinvae.bench.plugin import is_complete, presets_of
from twinvae.bench.records import read_run
from twinvae.capabilities import CAPABILITIES, SHOWN_BY
from twinvae.port.errors import PortRaised

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


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        (["suites/parity/test_trained.py"], ("tiny", "cogvideox-2b", "small")),
        (["suites/parity/test_trained.py", "--preset", "tiny"], ("tiny", "small")),
        (["suites/parity/test_trained.py", "--preset", "small"], ("small",)),
        (["suites/parity/test_trained.py", "--one-round"], ("tiny", "cogvideox-2b")),  # which looks at it in part
        (["suites/parity/test_posterior.py"], ("tiny", "cogvideox-2b")),
    ],
    ids=str,
)
def test_the_trained_preset_is_missed_by_a_run_that_looks_at_all_of_it_and_by_no_other(given, chosen, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = []

    class Collected:
        def pytest_collection_finish(self, session):
            own = [item for item in session.items if hasattr(item, "callspec")]
            found.append(presets_of(session.config.stash[options.OPTIONS], own))

    assert pytest.main([*given, "--collect-only", "-q", "-p", "no:cacheprovider"], plugins=[Collected()]) == 0
    assert found == [chosen]


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
    "--nf, --sw": ("--nf", "--sw"),
    "--stepwise-skip": ("--stepwise-skip",),
    "several node ids": ("suites/tiny/test_one.py::test_measures", "suites/tiny/test_two.py"),
    "-k of a file": ("-k", "test_one"),
    "--deselect of a file": ("--deselect", "suites/tiny/test_two.py"),
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

    def run(*given: Any) -> Any:
        arguments = [argument for argument in given if isinstance(argument, str)]
        cut = any("suites/" in argument and not argument.startswith("-") for argument in arguments)
        where = () if cut and "--deselect" not in arguments else ("suites/tiny",)
        others = [plugin for plugin in given if not isinstance(plugin, str)]
        pytest.main([*plugins, *where, *arguments, *OPTIONS, "--report-dir", "out", "-q"], plugins=others)
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


AGAIN = """
    import pytest
    times = []
    def test_measures(record):
        times.append(1)
        record(case="one", metric="x", value=float(len(times)), limit=0.5 if len(times) == FAILING else 9.0)
    def test_raises():
        assert len(times) != FAILING
"""


def alone_in(tmp_path: Path, name: str, text: str) -> None:
    """Make a file of that name, which Python has not imported yet, the only one of the suite."""
    for file in (tmp_path / "suites" / "tiny").glob("test_*.py"):
        file.unlink()
    (tmp_path / "suites" / "tiny" / f"test_{name}.py").write_text(textwrap.dedent(text))


class Repeat:
    """What pytest-repeat does."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        metafunc.fixturenames.append("__pytest_repeat_step_number")
        metafunc.parametrize("__pytest_repeat_step_number", range(2), indirect=True)

    @pytest.fixture
    def __pytest_repeat_step_number(self, request: pytest.FixtureRequest) -> int:
        return request.param


class Rerun:
    """What pytest-rerunfailures does: a test that failed is run once more."""

    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        for attempt in range(2):
            reports = runtestprotocol(item, nextitem=nextitem, log=False)
            failed = any(phase.failed for phase in reports)
            for phase in reports:
                if attempt == 0 and phase.failed:
                    phase.outcome = "rerun"
                item.ihook.pytest_runtest_logreport(report=phase)
            if not failed:
                break
        return True


def test_of_a_test_that_is_repeated_the_last_value_counts_and_the_page_says_so(tiny, tmp_path):
    alone_in(tmp_path, "repeated", AGAIN.replace("FAILING", "0"))
    data = tiny(Repeat())
    assert [record.value for record in data.records] == [2.0]
    assert data.complete
    assert "1 of the values were measured up to 2 times: the last time counts" in page(tmp_path)


def test_a_test_that_passes_when_it_is_run_again_has_not_failed(tiny, tmp_path):
    alone_in(tmp_path, "mended", AGAIN.replace("FAILING", "1"))
    data = tiny(Rerun())
    assert ([record.value for record in data.records], data.failures) == ([2.0], ())
    assert data.complete
    assert data.end.exit_status == 0
    assert "passed when they were run again: suites/tiny/test_mended.py::test_measures" in page(tmp_path)


def test_a_test_that_fails_again_has_failed(tiny, tmp_path):
    alone_in(tmp_path, "broken", AGAIN.replace("FAILING", "2"))
    assert [failure.message for failure in tiny(Repeat()).failures][:1] == ["one x: 2, past its limit"]


def test_a_test_that_fails_each_time_it_is_run_has_failed_though_its_teardown_passes(tiny, tmp_path):
    alone_in(tmp_path, "hopeless", "def test_raises():\n    assert False, 'always'\n")
    data = tiny(Rerun())
    assert [failure.test for failure in data.failures] == ["suites/tiny/test_hopeless.py::test_raises"]
    assert data.end.exit_status == 1
    assert "passed when they were run again" not in page(tmp_path)


def page(tmp_path: Path) -> str:
    return (tmp_path / "out" / "cpu" / "tiny.md").read_text()


def test_one_test_that_measures_a_thing_twice_or_two_that_do_fail_as_before(tiny, tmp_path):
    text = """
        import pytest
        def test_twice(record):
            for value in (1.0, 2.0):
                record(case="twice", metric="x", value=value)
        @pytest.mark.parametrize("n", [1, 2])
        def test_each(n, record):
            record(case="each", metric="x", value=float(n))
    """
    alone_in(tmp_path, "double", text)
    messages = [failure.message for failure in tiny().failures]
    assert [message.startswith("ValueError: two records of one thing") for message in messages] == [True, True]


def test_a_run_without_pytest_benchmark_has_no_storage_and_a_benchmark_that_is_none(tiny, tmp_path):
    alone_in(tmp_path, "stored_nowhere", "def test_none(benchmark):\n    assert benchmark is None\n")
    data = tiny("-p", "no:benchmark")
    assert (data.run.storage, data.failures, data.complete) == ("", (), True)


def test_another_process_writes_no_records(tiny, monkeypatch):
    before = tiny()
    monkeypatch.setattr(plugin.os, "getpid", iter(range(10**6)).__next__)
    assert tiny("--maxfail=1") == before


SEVERAL = {  # what is run, and whether it is refused in several processes
    "all": ((), True), "a suite": (("suites/parity",), True), "a test": ((f"{SUITE}/test_vae.py::test_x[a::b]",), True),
    "unit tests": (("tests",), False), "a file of them": (("tests/bench/test_plugin.py",), False),
    "both": (("tests", "suites"), True),
}  # fmt: skip


@pytest.mark.parametrize("case", SEVERAL)
def test_suites_are_not_run_in_several_processes(case):
    given, refused = SEVERAL[case]
    config = SimpleNamespace(
        option=SimpleNamespace(dist="load", pyargs=False),
        args=given or ["."],
        invocation_params=SimpleNamespace(dir=ROOT),
    )
    with pytest.raises(pytest.UsageError, match="leave -n out") if refused else contextlib.nullcontext():
        plugin.refuse_several_processes(config)
    config.option.dist = "no"
    plugin.refuse_several_processes(config)


def test_platforms_that_jax_has_no_device_of_are_a_usage_error(run, capsys, monkeypatch):
    def none() -> str:
        raise AssertionError

    monkeypatch.setattr(options, "detect_platform", none)
    assert run(QUICK) == pytest.ExitCode.USAGE_ERROR
    assert "JAX has no device of the platforms that it was asked for, JAX_PLATFORMS=" in capsys.readouterr().err


@pytest.mark.parametrize(("encoding", "line"), [("utf-8", "\u2503"), ("cp1252", "|"), ("ascii", "|"), ("cp437", "|")])
def test_a_table_is_drawn_in_characters_that_the_terminal_has(encoding, line):
    table = Table("case")
    table.add_row("8 \u2192 9 \u2265 7")
    text = plugin.drawn(table, encoding, markup=False)
    assert line in text
    assert text.encode(encoding).decode(encoding) == text
    assert ("\u2192" in text) is (encoding == "utf-8")
    assert plugin.within("a \u2192 b \u00d7", encoding).encode(encoding)


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


def test_what_goes_wrong_in_a_port_is_said_once_and_in_a_line():
    with pytest.raises(pytest.fail.Exception) as raised, plugin.port_speaks(needing("x")):
        raise PortRaised("no card")
    assert (str(raised.value), raised.value.__suppress_context__) == ("PortRaised: no card", True)


def test_what_was_not_judged_is_counted_by_backend_and_reason(monkeypatch):
    monkeypatch.setattr(plugin, "capabilities_of", lambda backend: {"whole"})
    needed = (
        ["stream"], ["stream"], ["layers"], ["whole"], ["tiling", "stream"], ["house", "stream"], ["step"],
    )  # fmt: skip
    items = [needing("port", *names) for names in needed]
    found = plugin._lacking(items)
    assert plugin.counted(found) == (
        "port: layers (1 test)", "port: stream (2 tests)", "port: stream, tiling (1 test)",
        "port: what TwinVAE's own backends alone have (2 tests)",
    )  # fmt: skip
    later = Counter({"port: stream": 3, "port: it takes (1, 9) frames": 1})
    assert plugin.unjudged_lines(found + later) == [
        "port: it takes (1, 9) frames (1 test)", "port: layers (1 test)", "port: stream (5 tests)",
        "port: stream, tiling (1 test)", "port: what TwinVAE's own backends alone have (2 tests)",
        *(f"{name}: by {SHOWN_BY[name]}" for name in ("tiling", "stream", "layers")),
    ]  # fmt: skip


def test_large_models_come_last_and_each_is_loaded_once_beside_its_reference():
    large, small = Model.of_preset("cogvideox-2b", 0), Model.of_preset("tiny", 0)
    axes = [(dtype, backend) for dtype in ("float32", "bfloat16") for backend in ("flax", "torchax")]
    params = [{"model": large, "dtype": dtype, "backend": backend} for dtype, backend in axes]
    items = [SimpleNamespace(callspec=SimpleNamespace(params=given)) for given in (params[::2] + params[1::2]) * 2]
    items.insert(3, SimpleNamespace(callspec=SimpleNamespace(params={"model": small, "dtype": "float32"})))
    order = [item.callspec.params for item in sorted(items, key=plugin._large_models_last)]
    assert order[0]["model"] == small
    loaded = [key for key, _ in itertools.groupby(order[1:], lambda one: (one["dtype"], one["backend"]))]
    assert len(loaded) == 4
    assert len(list(itertools.groupby(dtype for dtype, _ in loaded))) == 2  # the reference's loads


def test_the_synthetic_clip_is_drawn_with_the_seed_that_was_given(tiny, tmp_path):
    body = """
        import numpy as np
        from twinvae.bench.clips import synthetic_clip

        def test_draws(clip):
            assert np.array_equal(clip(2, 8, 8), synthetic_clip(2, 8, 8, 3))
    """
    alone_in(tmp_path, "drawn", body)
    assert tiny().failures == ()
