"""A VAE, its conv cache, a stream and a posterior go through pickle, and give the same afterwards, in float64 too."""

from __future__ import annotations

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import twinvae
from impl_flax.autoencoder import FlaxVAE
from twinvae.interface import ConvCache

LATENTS = np.linspace(-1, 1, 5 * 4).reshape(1, 5, 1, 1, 4)


@pytest.mark.parametrize("backend", ["flax", "torchax"])
def test_weights_settings_and_dtype_survive(backend):
    vae = twinvae.load(backend, dtype="float64")
    vae.enable_tiling(16, 24)
    vae.set_memory_budget("1GiB")
    vae.compiled_step("decode", "whole", False, False)
    for again in (pickle.loads(pickle.dumps(vae)), copy.deepcopy(vae)):
        assert (again.use_tiling, again.tile_sample_min_width, again.memory_budget) == (True, 24, 2**30)
        assert again.planner is not vae.planner
        assert jax.tree.structure(again.params) == jax.tree.structure(vae.params)
        for found, expected in zip(jax.tree.leaves(again.params), jax.tree.leaves(vae.params), strict=True):
            assert isinstance(found, jax.Array)
            assert found.dtype == np.float64
            np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


def running_sum(vae, operation, frames, cache, form, **_):
    """A stand-in for a step: each frame batch, and all before it."""
    with jax.enable_x64(True):
        total = jnp.asarray(frames) + (0 if cache is None else cache["sum"])
        return total, {"sum": total[:, -1:]}


def test_a_stream_goes_on_where_it_was_and_so_does_its_cache(monkeypatch):
    monkeypatch.setattr(FlaxVAE, "run_frame_batch", running_sum)
    vae = twinvae.load("flax", dtype="float64")
    stream = vae.decode_stream(LATENTS)
    next(stream)
    again, cache = pickle.loads(pickle.dumps((stream, stream.cache)))
    expected = np.asarray(next(stream))
    for other in (again, vae.decode_stream(LATENTS[:, 3:], cache)):
        np.testing.assert_array_equal(next(other), expected)
        assert list(other) == []


def test_float64_stays_float64_where_jax_has_it_not_enabled():
    with jax.enable_x64(True):
        array = jnp.full((1, 1, 1, 1, 2), 0.1, jnp.float64)
    cache = ConvCache("decode", "flax", "", (1, 1, 1, "float64"), None, ({"conv": array},))
    posterior, cache = pickle.loads(pickle.dumps((twinvae.Posterior(array), cache)))
    for found in (posterior.mode(), cache.tiles[0]["conv"]):
        assert found.dtype == np.float64
        assert found.ravel()[0] == 0.1
