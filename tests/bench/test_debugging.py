"""--debug-nans, --log-compiles and --trace-dir: what they say, and that a run without them is as it was."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

from tests.bench.synthetic import RUN, write_run
from twinvae.bench.acceptance import unfit
from twinvae.bench.debugging import compiled_lines
from twinvae.bench.records import read_run
from twinvae.bench.report import judge_suites
from twinvae.bench.xla_cost import Stage

ROOT = Path(__file__).parents[2]
TESTS = """
import jax, jax.numpy as jnp
from twinvae.bench.debugging import traced

class VAE:
    calls = 0
    def decode(self, x):
        self.calls += 1
        return jnp.log(x)
    encode = decode

def test_with_numbers(pytestconfig):
    vae = VAE()
    with traced(pytestconfig, "numbers [1.0]", vae):
        vae.decode(1.0)
    assert (vae.calls, list(vars(vae))) == (3 if pytestconfig.option.trace_dir else 1, ["calls"])

def test_with_nan():
    jax.jit(jnp.log)(-1.0)
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys) -> Callable[..., str]:
    """What pytest prints of these tests, with the options given, in a folder of their own."""

    def run(*options: str) -> str:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "test_numbers.py").write_text(TESTS)
        alone = ["-p", "no:cacheprovider", "-p", "no:benchmark", "-p", "no:randomly", "--import-mode=importlib"]
        jax.clear_caches()
        pytest.main(["-p", "twinvae.bench.debugging", *alone, *options])
        return capsys.readouterr().out

    return run


def test_the_test_that_first_meets_nan_is_named_and_jax_is_left_as_it_was(run):
    # JAX says "invalid value (nan) encountered in jit(log)", or of a program that ran before "('jit(log)', 'nan'".
    assert re.search(r"first met in test_numbers\.py::test_with_nan: .*\bnan\b", run("--debug-nans"))
    assert not jax.config.jax_debug_nans
    assert "1 passed" in run("--debug-nans", "-k", "numbers and not nan")
    assert "2 passed" in run()


def test_what_is_compiled_is_said_as_it_comes_and_counted(run):
    printed = run("--log-compiles", "-k", "nan")
    assert "Compiling jit(log)" in printed
    assert "1 x jit(log)" in printed
    assert not jax.config.jax_log_compiles
    assert "Compiling" not in run("-k", "nan")


def test_programs_are_counted_by_name_the_longest_first():
    found = [Stage("compiling", "jit(add)", 0.0, 0.1), Stage("compiling", "jit(step)", 1.0, 3.0),
             Stage("tracing", "jit(step)", 3.0, 9.0), Stage("compiling", "jit(add)", 4.0, 4.2)]  # fmt: skip
    assert compiled_lines(found) == [
        "     1 x jit(step), 2.0 s", "     2 x jit(add), 0.3 s", "     3 in all, of 2 names, 2.3 s"
    ]  # fmt: skip


def test_a_call_is_traced_once_it_is_warm_and_its_trace_is_printed(run, tmp_path):
    printed = run("--trace-dir", "traces", "-k", "numbers and not nan")
    (trace,) = (tmp_path / "traces" / "numbers_1.0_decode").rglob("perfetto_trace.json.gz")
    assert str(trace.relative_to(tmp_path)) in printed
    assert "xprof --logdir traces" in printed
    (tmp_path / "file").touch()
    assert run("--trace-dir", "file/traces") == ""


def test_a_suites_vae_is_traced_and_its_test_that_feeds_nan_is_let_pass(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    case = "suites/parity/test_bad_input.py::test_nan_in_the_input_goes_where_the_reference_takes_it"
    options = ["--preset", "tiny", "--backend", "flax", "--dtype", "float32", "--mode", "jit", "--platform", "cpu"]
    folders = ["--report-dir", str(tmp_path / "out"), "--trace-dir", str(tmp_path / "traces")]
    assert pytest.main([case, *options, *folders, "--debug-nans", "-q", "-p", "no:cacheprovider"]) == 0
    assert len(list((tmp_path / "traces").rglob("perfetto_trace.json.gz"))) == 1
    assert "--debug-nans" in read_run(tmp_path / "out" / "cpu" / "records" / "parity.jsonl").run.options
    assert "**Run with --debug-nans**" in (tmp_path / "out" / "cpu" / "parity.md").read_text()


@pytest.mark.parametrize("options", [(), ("--debug-nans",)])
def test_a_run_with_debug_nans_becomes_no_baseline(options, tmp_path):
    write_run(tmp_path, [], RUN.model_copy(update={"options": options}))
    (judged,) = judge_suites(tmp_path, tmp_path, RUN.platform)
    assert [reason for reason in unfit(judged.data) if "--debug-nans" in reason] == ([] if not options else
            ["It was run with --debug-nans, which makes other programs and other times."])  # fmt: skip
