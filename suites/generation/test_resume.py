"""Denoising that is killed goes on from the last step that was kept, with the very bits of one that was not."""

from __future__ import annotations

import importlib
import shutil

import numpy as np
import pytest

from stages.denoise import Settings, denoise
from stages.files import STEPS as STEPS_FILE
from stages.files import TEXT, read
from stages.model import Model
from suites.generation.bars import SAME_BITS, STEPS_ALONE
from suites.generation.conftest import SEED, STEPS, latents_in
from twinvae.bench.bars import hold


@pytest.mark.only(dtype=("float32", "bfloat16"))  # in which an estimate is wider than latents
def test_denoising_killed_after_each_step_gives_the_bits_of_one_that_was_not(
    dtype, staged, pipelines, record, tmp_path, monkeypatch
):
    kind = "5b"  # whose DPM hands an estimate on, and draws noise
    whole, model = staged(kind, dtype), Model(pipelines(kind))
    shutil.copy(whole / TEXT, tmp_path)
    module = importlib.import_module("stages.denoise")
    sample, done = module.sample, []

    def killed_after_one(*args, **kwargs):
        if killed[0]:
            raise KeyboardInterrupt
        killed[0] = True
        done.append(kwargs["last"])
        return sample(*args, **kwargs)

    monkeypatch.setattr(module, "sample", killed_after_one)
    for step in range(1, STEPS):
        killed = [False]
        with pytest.raises(KeyboardInterrupt):
            denoise(tmp_path, model, Settings(steps=STEPS, seed=SEED, dtype=dtype))
        assert read(tmp_path / STEPS_FILE, "denoise")[1].latents.steps == step
    killed = [False]
    denoise(tmp_path, model, Settings(steps=STEPS, seed=SEED, dtype=dtype))
    again = len(done) - STEPS
    differing = int(np.sum(latents_in(tmp_path) != latents_in(whole)))
    hold(record, SAME_BITS, {"differing values": differing, STEPS_ALONE: again}, "resumed after each step")
    assert done == list(range(1, STEPS + 1))
    assert not (tmp_path / STEPS_FILE).exists()
