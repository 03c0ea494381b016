"""Exact costs at sizes that no timed model has: longer clips, more of them, larger frames, and wide layers alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders import autoencoder_kl_cogvideox as diffusers_layers

import twinvae
from suites.speed.bars import COSTS, GROWTH, WRITTEN, WRITTEN_ONCE
from suites.speed.clock import replay, replay_clock
from twinvae.bench import written
from twinvae.bench.bars import hold
from twinvae.bench.xla_cost import PRODUCTS_IN_FLOAT32, program_costs, written_operations

pytestmark = [
    pytest.mark.needs("step"),
    pytest.mark.benchmark(timer=replay_clock),
    pytest.mark.only(mode=("jit",), large=False),
]

# Clips of three frame batches, [b, t, h, w], and larger ones for which the same program is written.
CLIPS = {"encode": (2, 17, 16, 24), "decode": (2, 5, 2, 3)}
LARGER = {
    "longer": {"encode": (2, 33, 16, 24), "decode": (2, 9, 2, 3)},
    "more of them": {"encode": (3, 17, 16, 24), "decode": (3, 5, 2, 3)},
    "twice as high": {"encode": (2, 17, 32, 24), "decode": (2, 5, 4, 3)},
}


class Layer(NamedTuple):
    """A layer of the full architecture's width, on frames that are small.

    Args:
        x: the shape of its input, channel-last; zq: that of the latents that condition it.
    """

    name: str
    init: Mapping[str, Any]
    x: tuple[int, ...]
    zq: tuple[int, ...] | None = None


LAYERS = {
    "causal conv": Layer("CogVideoXCausalConv3d", {"in_channels": 128, "out_channels": 128, "kernel_size": 3},
                         (1, 9, 6, 8, 128)),
    "spatial norm": Layer("CogVideoXSpatialNorm3D", {"f_channels": 128, "zq_channels": 16, "groups": 32},
                          (1, 9, 8, 8, 128), (1, 3, 4, 4, 16)),
    "downsample": Layer("CogVideoXDownsample3D", {"in_channels": 128, "out_channels": 128, "compress_time": True},
                        (1, 9, 8, 8, 128)),
    "upsample": Layer("CogVideoXUpsample3D", {"in_channels": 128, "out_channels": 128, "compress_time": True},
                      (1, 5, 4, 4, 128)),
}  # fmt: skip


@pytest.mark.only(dtype=("float32",))
@pytest.mark.parametrize("change", LARGER)
@pytest.mark.parametrize("operation", CLIPS)
def test_a_program_is_written_once_for_clips_of_any_size(
    operation, change, vae, backend, mode, dtype, model, once, record, benchmark
):
    channels = model.config.in_channels if operation == "encode" else model.config.latent_channels
    lower = vae.lower_encode if operation == "encode" else vae.lower_decode
    start = time.perf_counter()
    before = once((__name__, model.label, backend, operation),
                  lambda: written_operations(lower((*CLIPS[operation], channels))))  # fmt: skip
    after = written_operations(lower((*LARGER[change][operation], channels)))
    hold(record, WRITTEN_ONCE, {GROWTH: after - before}, f"clips, {change}", operation=operation)
    replay(benchmark, [time.perf_counter() - start], "programs as written")


@pytest.mark.only(dtype=("float32", "bfloat16"))
@pytest.mark.parametrize("case", LAYERS)
def test_a_wide_layer_costs_what_it_did(case, backend, mode, dtype, model, record, benchmark):
    start = time.perf_counter()
    costs = program_costs(jax.jit(output_of(LAYERS[case], backend, dtype)).lower(given_to(LAYERS[case], dtype)))
    hold(record, COSTS, costs, f"{case}, wide", shape=shape_of(LAYERS[case]), of_compiler=True)
    replay(benchmark, [time.perf_counter() - start], "wide layers")


@pytest.mark.only(dtype=("float32", "bfloat16"))
@pytest.mark.parametrize("platform", ["tpu", "cuda"])
@pytest.mark.parametrize("case", LAYERS)
def test_a_wide_layer_is_written_for_an_accelerator_as_it_was(
    case, platform, backend, mode, dtype, model, record, benchmark
):
    start = time.perf_counter()
    text = written.function(output_of(LAYERS[case], backend, dtype), platform, given_to(LAYERS[case], dtype))
    counts = {
        "products as written": written.products(text),
        "transpositions as written": written.transpositions(text),
    }
    if dtype == "bfloat16":
        counts |= {
            PRODUCTS_IN_FLOAT32: written.products(text, "float32"),
            "arrays in float32": written.arrays_in(text, "float32"),
        }
    hold(record, WRITTEN, counts, f"{case}, wide, for {platform}", shape=shape_of(LAYERS[case]))
    replay(benchmark, [time.perf_counter() - start], "wide layers as written")


def output_of(spec: Layer, backend: str, dtype: str) -> Callable[[Mapping[str, Any]], Any]:
    """A layer's output, as a function that nothing was traced of yet."""
    with torch.device("meta"):
        tensors = getattr(diffusers_layers, spec.name)(**spec.init).state_dict()
    rng = np.random.default_rng(0)
    drawn = {name: rng.standard_normal(tensor.shape).astype(dtype) for name, tensor in tensors.items()}
    layer = twinvae.load_layer(backend, spec.name, spec.init, drawn, dtype=dtype)
    return lambda given: layer(**given)[0]


def given_to(spec: Layer, dtype: str) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in (("x", spec.x), ("zq", spec.zq)) if shape}


def shape_of(spec: Layer) -> str:
    return "x".join(map(str, spec.x))
