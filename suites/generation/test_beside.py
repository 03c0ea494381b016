"""How long denoising takes beside diffusers' own pipeline, on what is at hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import jax
import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline

from impl_torchax.transformer import load_transformer
from stages.model import Model
from stages.sampling import begin, sample
from stages.schedule import probe, torch_noise
from suites.generation.bars import BESIDE, OVER_DIFFUSERS
from suites.generation.conftest import GUIDANCE, SEED, STEPS
from suites.generation.tiny import FRAMES, TOKENS, read_pipeline
from twinvae.bench.bars import hold

ROUNDS = 7


@pytest.fixture(autouse=True)
def _effort() -> None:
    """Programs are compiled and run as users have them, with all effort (see the suites' fixture of the same name)."""


def seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


@pytest.mark.compiles
@pytest.mark.only(dtype=("float32",))
def test_denoising_is_timed_beside_diffusers_pipeline(dtype, pipelines, record, pytestconfig):
    folder = pipelines("5b")
    pipe = read_pipeline(folder, CogVideoXPipeline, dtype)
    transformer = load_transformer(Model(folder).part("transformer"), dtype=dtype)
    schedule = probe(pipe.scheduler, STEPS)
    config = transformer.config
    shape = (1, (FRAMES - 1) // 4 + 1, config["sample_height"], config["sample_width"], config["in_channels"])
    latents, noise = torch_noise(schedule, SEED, shape, dtype)
    text, negative = np.random.default_rng(SEED).standard_normal((2, 1, TOKENS, config["text_embed_dim"]), np.float32)
    given = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE, "num_frames": FRAMES, "output_type": "latent",
             "prompt_embeds": torch.tensor(text), "negative_prompt_embeds": torch.tensor(negative)}  # fmt: skip

    def ours() -> Any:
        state = begin(latents, transformer)
        return jax.block_until_ready(
            sample(transformer, schedule, state, text, negative, guidance=GUIDANCE, noise=noise).latents
        )

    def theirs() -> Any:
        return pipe(**given, generator=torch.Generator().manual_seed(SEED)).frames

    np.testing.assert_allclose(np.moveaxis(np.asarray(ours()), -1, 2), theirs().numpy(), atol=5e-5)
    rounds = range(1 if pytestconfig.option.one_round else ROUNDS)
    times = [(seconds(ours), seconds(theirs)) for _ in rounds]
    ratio = median(one for one, _ in times) / median(other for _, other in times)
    hold(record, BESIDE, {OVER_DIFFUSERS: ratio}, "denoising beside diffusers, 5b", kind="absolute")
