"""A stage that is started a second time finds what the first has compiled."""

from __future__ import annotations

import shutil
import time

import jax
import pytest

from stages.decode import decode
from stages.denoise import Settings, denoise
from stages.files import TEXT
from stages.model import Model
from suites.generation.bars import SECOND, STARTS
from suites.generation.conftest import SEED, STEPS
from twinvae.bench.bars import hold
from twinvae.jax.kept import keeping


@pytest.mark.compiles
@pytest.mark.only(dtype=("float32",))
@pytest.mark.parametrize("stage", ["denoise", "decode"])
def test_a_second_start_takes_half_the_first(stage, dtype, staged, pipelines, record, tmp_path, pytestconfig):
    run, model = staged("2b", dtype), Model(pipelines("2b"))

    def start(folder) -> float:
        folder.mkdir()
        shutil.copy(run / TEXT, folder)
        jax.clear_caches()
        began = time.perf_counter()
        if stage == "denoise":
            denoise(folder, model, Settings(steps=STEPS, seed=SEED, dtype=dtype))
        else:
            decode(folder, model, latents=run / "latents.safetensors", backend="flax", dtype=dtype)
        return time.perf_counter() - began

    little = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)  # as users compile, but for XLA's older emitters
    try:
        with keeping(tmp_path / "programs"):
            first, second = start(tmp_path / "first"), start(tmp_path / "second")
    finally:
        jax.config.update("jax_disable_most_optimizations", little)
    bars = STARTS
    if pytestconfig.option.one_round:  # which judges nothing by its time
        bars = {SECOND: STARTS[SECOND]._replace(limit=None)}
    hold(record, bars, {SECOND: second / first}, f"second start, {stage}", kind="absolute")
