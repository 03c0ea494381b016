"""Which programs of denoising are judged where, and what is said of those that nobody compiled."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import jax
import pytest

from suites.generation import test_programs as suite
from suites.generation.bars import BARS
from suites.generation.cases import MESH, ONE_CHIP
from suites.generation.program_bars import PEAK, SENT
from suites.generation.program_figure import meshes
from suites.generation.programs import CASES, missing_for, tracing
from twinvae.bench.aot import cuda
from twinvae.bench.aot.programs import Answer, Program, told
from twinvae.jax.compiling import traced_for


def verdict(case, metric, value):
    return SimpleNamespace(
        key=SimpleNamespace(case=case, metric=metric), value=value, failing=False, record=SimpleNamespace(limit=None)
    )


@pytest.mark.parametrize(
    ("platform", "dtypes", "judged"),
    [
        ("tpu-v6e-aot", ("bfloat16",), True),
        ("gpu-h100-aot", ("bfloat16",), True),
        ("tpu-v6e-aot", ("float32",), False),
        ("tpu-v5e-aot", ("bfloat16",), False),
        ("cpu", ("bfloat16",), False),
    ],
)
def test_programs_are_judged_under_their_compilers_platform_alone(platform, dtypes, judged):
    options = SimpleNamespace(platform=platform, dtypes=dtypes)
    assert [bool(cases(options)) for cases in (suite.asked, suite.steps, suite.on_meshes)] == [judged] * 3
    assert {row["case"] for row in suite.steps(options)} <= CASES.keys()


def test_a_program_that_nobody_compiled_is_pending_and_one_that_was_has_its_value():
    program = Program(
        name="x", fingerprint="x", topology="t", compiler="v", fits=True, peak_bytes=7, seconds=1, date=""
    )
    answers = [Answer("recalled", program), Answer("needs compiling", None)]
    assert told("compile it", answers, lambda: 1 / 0) == {"value": None, "pending": "compile it"}
    assert told("compile it", [Answer("recalled", program)], lambda: program.peak_bytes)["value"] == 7


def test_each_value_has_its_bar():
    assert [held.what for held in BARS if PEAK in held.bars and held.where == {"case": ONE_CHIP}] == [ONE_CHIP]
    (mesh,) = (held for held in BARS if SENT in held.bars and held.where == {"case": MESH})
    assert (mesh.bars[PEAK].limit, mesh.bars[SENT].limit) == (3, 570)


@pytest.mark.parametrize("kind", ["tpu", "gpu"])
def test_what_is_traced_holds_no_lines_and_the_setting_is_put_back(kind):
    before = jax.config.values["jax_traceback_in_locations_limit"]
    with tracing(kind):
        assert (traced_for(), jax.config.values["jax_traceback_in_locations_limit"]) == (kind, 0)
    assert jax.config.values["jax_traceback_in_locations_limit"] == before != 0


def test_without_cudnn_attention_is_lowered_for_no_card_and_it_is_said(monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(cuda, "missing", str)
    monkeypatch.setattr(cuda, "version", version)
    assert ".[cudnn]" in missing_for("h100")
    assert "cudnn" not in missing_for("v6e")


def test_the_figure_has_a_row_for_each_mesh():
    data = SimpleNamespace(run=SimpleNamespace(suite="generation", platform="gpu-h100-aot"))
    (picture,) = meshes(data, [verdict(ONE_CHIP, PEAK, 16.4), verdict(MESH, PEAK, 2.4), verdict(MESH, SENT, 541)])
    assert all(text in picture.content for text in (b"one chip", b"dp 2, tp 4", b"541"))
    assert "compiler for h100" in picture.caption
    assert list(meshes(data, [verdict("latents, 2b", "max_abs", 0)])) == []
