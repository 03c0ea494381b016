"""A process may have asked JAX for other promotion of types and ranks, or for 64 bits: results stay what they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import twinvae
from twinvae.arrays import DTYPES, dtype_scope
from twinvae.forms import ROW_SLABS

LATENTS = np.linspace(-1, 1, 3 * 4).reshape(1, 3, 1, 1, 4)
MOMENTS = np.linspace(-1, 1, 16).reshape(1, 1, 2, 2, 4)


@pytest.fixture
def strict() -> Iterator[None]:
    with ExitStack() as flags:
        flags.enter_context(jax.numpy_dtype_promotion("strict"))
        flags.enter_context(jax.numpy_rank_promotion("raise"))
        flags.enter_context(jax.check_tracer_leaks(True))
        yield
        assert jax.config.jax_numpy_dtype_promotion == "strict"
        assert jax.config.jax_numpy_rank_promotion == "raise"


@pytest.mark.parametrize(("backend", "dtype", "operation", "form"), [
    ("flax", "bfloat16", "encode", ROW_SLABS), ("torchax", "bfloat16", "decode", "whole"),
])  # fmt: skip
def test_a_step_is_the_same_program(backend, dtype, operation, form, strict):
    vae, shape = twinvae.load(backend, dtype=dtype), {"encode": (1, 3, 8, 8, 3), "decode": (1, 3, 1, 1, 4)}[operation]
    text = vae.lower_step(operation, shape, form=form).as_text()
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert text == vae.lower_step(operation, shape, form=form).as_text()


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_blend_and_a_sample_are_computed_alike(dtype, strict):
    vae = twinvae.load("flax", dtype=dtype)
    with dtype_scope(DTYPES[dtype]):
        tile = jnp.zeros((1, 1, 4, 4, 3), DTYPES[dtype])
    assert {vae.blend(tile, tile, 2, 2).dtype, vae.concatenate([tile, tile], 2).dtype} == {DTYPES[dtype]}
    assert vae.checked("encode", jnp.zeros((1, 1, 8, 8, 3))).dtype == DTYPES[dtype]
    with dtype_scope(DTYPES[dtype]):
        posterior = twinvae.Posterior(jnp.asarray(MOMENTS, DTYPES[dtype]))
    for found in (posterior.sample(0), posterior.std, posterior.logvar, posterior.kl(), posterior.mode()):
        assert found.dtype == DTYPES[dtype]


@pytest.mark.parametrize("backend", ["flax", "torchax"])
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_a_layer_is_computed_alike(backend, dtype, strict):
    init = {"in_channels": 4, "out_channels": 4, "kernel_size": 3}
    tensors = {"conv.weight": np.ones((4, 4, 3, 3, 3), np.float32), "conv.bias": np.ones(4, np.float32)}
    layer = twinvae.load_layer(backend, "CogVideoXCausalConv3d", init, tensors, dtype=dtype)
    out, cache = layer(LATENTS)
    assert (out.dtype, cache.dtype) == (DTYPES[dtype], DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_scope_gives_back_what_the_process_had(dtype, strict):
    with dtype_scope(DTYPES[dtype]):
        assert jax.config.jax_numpy_dtype_promotion == "standard"
        assert jax.config.jax_numpy_rank_promotion == "allow"
