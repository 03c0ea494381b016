"""A VAE, its conv cache, a stream and a posterior go through pickle, and give the same afterwards, in float64 too."""

from __future__ import annotations

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import twinvae
from twinvae.bench.effort import little_effort
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
        for name, tensor in vae.state_dict().items():
            assert again.state_dict()[name].dtype == np.float64
            np.testing.assert_array_equal(again.state_dict()[name], tensor)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(again.params))


def test_a_stream_goes_on_where_it_was_and_so_does_its_cache():
    with little_effort():
        stream = twinvae.load("flax", dtype="float64").decode_stream(LATENTS)
        next(stream)
        again, cache = pickle.loads(pickle.dumps((stream, stream.cache)))
        expected = np.asarray(next(stream))
        np.testing.assert_allclose(next(again), expected, rtol=0, atol=1e-12)
        resumed = twinvae.load("flax", dtype="float64").decode_stream(LATENTS[:, 3:], cache)
        np.testing.assert_allclose(next(resumed), expected, rtol=0, atol=1e-12)


def test_float64_stays_float64_where_jax_has_it_not_enabled():
    with jax.enable_x64(True):
        array = jnp.full((1, 1, 1, 1, 2), 0.1, jnp.float64)
    cache = ConvCache("decode", "flax", "", (1, 1, 1, "float64"), None, ({"conv": array},))
    posterior, cache = pickle.loads(pickle.dumps((twinvae.Posterior(array), cache)))
    for found in (posterior.mode(), cache.tiles[0]["conv"]):
        assert found.dtype == np.float64
        assert found.ravel()[0] == 0.1
