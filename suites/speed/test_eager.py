"""What is paid outside of compiled programs, exactly: operations run one by one, and what a pipeline's adapter adds."""

from __future__ import annotations

import time
from unittest import mock

import jax
import numpy as np
import pytest

import twinvae
from suites.speed.bars import ADAPTER, AGAIN, EAGER
from suites.speed.clock import replay, replay_clock
from twinvae import arrays
from twinvae.bench.bars import hold
from twinvae.bench.effort import little_effort
from twinvae.bench.xla_cost import NETWORK, compiled, operations, stages, transpositions

pytestmark = [
    pytest.mark.needs("step"),
    pytest.mark.benchmark(timer=replay_clock),
    pytest.mark.only(mode=("eager",), dtype=("float32",), large=False),
]

FRAMES, CELLS = {"encode": 8, "decode": 2}, (2, 3)  # one frame batch, and its latents' height and width


def clip_of(vae: twinvae.VideoVAE, operation: str) -> np.ndarray:
    config, (height, width) = vae.config, CELLS
    scale, channels = (
        (config.spatial_compression, config.in_channels) if operation == "encode" else (1, config.latent_channels)
    )
    return np.full((1, FRAMES[operation], scale * height, scale * width, channels), 0.5, arrays.DTYPES[vae.dtype])


def run(vae: twinvae.VideoVAE, operation: str) -> None:
    clip = clip_of(vae, operation)
    jax.block_until_ready(vae.decode(clip) if operation == "decode" else vae.encode(clip).moments)


@pytest.mark.parametrize("operation", FRAMES)
def test_an_eager_call_hands_over_no_more_operations_than_it_did(
    operation, vae, backend, mode, dtype, record, benchmark
):
    start = time.perf_counter()
    with little_effort():
        with stages() as first:
            run(vae, operation)
        with stages() as again, operations() as found:
            run(vae, operation)
    case = "an eager call"
    values = {"operations run": found.total(), AGAIN: compiled(again)}
    hold(record, EAGER, values, case, operation=operation, of_compiler=True)
    values = {"transpositions run": transpositions(found), "whole networks compiled": compiled(first, NETWORK)}
    hold(record, EAGER, values, case, operation=operation)
    replay(benchmark, [time.perf_counter() - start], case)


def test_a_pipelines_adapter_runs_a_network_once_for_what_it_gives(vae, backend, mode, dtype, record, benchmark):
    video, latents = (arrays.to_torch(clip_of(vae, one)).permute(0, 4, 1, 2, 3) for one in FRAMES)
    adapter, start = vae.as_diffusers(), time.perf_counter()
    calls = {
        "encode": lambda: adapter.encode(video).latent_dist.mean,
        "decode": lambda: adapter.decode(latents).sample,
        "reconstruct": lambda: adapter(video).sample,
    }
    with little_effort():
        for half in FRAMES:
            run(vae, half)  # what is compiled first is no cost of the adapter
        for operation, call in calls.items():
            halves = [half for half in FRAMES if operation in (half, "reconstruct")]
            with mock.patch.object(vae, "run_frame_batch", wraps=vae.run_frame_batch) as network, operations() as found:
                call()
            with operations() as own:
                for half in halves:
                    run(vae, half)
            runs = ADAPTER["networks run"]._replace(limit=len(halves))
            values = {"networks run": network.call_count, "operations added": found.total() - own.total()}
            hold(record, ADAPTER | {"networks run": runs}, values, "through the adapter", operation=operation)
    replay(benchmark, [time.perf_counter() - start], "through the adapter")
