"""Kernels in one byte: what rounding leaves of them, and that programs widen just these."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import impl_flax
from suites.training.narrow import KINDS, Narrow, NarrowVAE, narrowed, widened
from twinvae.bench.effort import little_effort
from twinvae.config import DOWN_BLOCK, UP_BLOCK, VAEConfig
from twinvae.seeded import seeded_tensors

CONFIG = VAEConfig(
    block_out_channels=(4, 4), down_block_types=(DOWN_BLOCK,) * 2, up_block_types=(UP_BLOCK,) * 2, latent_channels=2,
    layers_per_block=1, norm_num_groups=2,
)  # fmt: skip
FLOAT32 = np.dtype(np.float32)


@pytest.mark.parametrize(("kind", "step"), [("int8", 1 / 254), ("float8", 1 / 16)])
def test_each_output_channel_is_rounded_by_its_own_largest_weight(kind, step):
    kernel = np.random.default_rng(0).uniform(-1, 1, (3, 3, 5, 4)).astype(np.float32) * [1e-3, 1, 50, 0]
    found = narrowed(jnp.asarray(kernel, FLOAT32), kind)
    assert found.values.dtype == KINDS[kind][0]
    off = np.abs(np.asarray(widened(found, FLOAT32)) - kernel)
    largest = np.abs(kernel).max((0, 1, 2))
    assert (off <= (1 + 1e-5) * step * (largest if kind == "int8" else np.abs(kernel) + largest / 1000)).all()
    assert (off.max((0, 1, 2))[:3] > step / 2 * largest[:3]).all()


def test_programs_widen_kernels_and_leave_vectors_as_they_are():
    tensors = seeded_tensors(CONFIG, 0)
    latents = np.random.default_rng(1).standard_normal((1, 1, 2, 2, 2)).astype(np.float32)
    vae = NarrowVAE(CONFIG, tensors, "int8", "float32")
    rounded = vae.state_dict()
    for name, tensor in tensors.items():
        assert isinstance(vae.params[name], Narrow) == (tensor.ndim > 1)
        assert (rounded[name] != tensor).any() == (tensor.ndim > 1)
    with little_effort():
        found = vae.decode(latents)
        expected = impl_flax.load(CONFIG, rounded, dtype="float32", jit=True, checkpoint="").decode(latents)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
