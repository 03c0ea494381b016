"""The posterior: mean, clamped log-variance, standard deviation, divergence, and samples by key."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

from suites.parity.bars import POSTERIOR
from twinvae import Posterior
from twinvae.arrays import DTYPES, dtype_scope, to_torch
from twinvae.bench.bars import check_shapes, hold, measured

SHAPE = (2, 3, 4, 5, 6)  # three latent channels
# Log-variances inside the clamp, far past both of its ends [-30, 20], and where they overflow.
SCALES = {"ordinary": 2.0, "extreme": 60.0, "infinite": np.inf}
KEY = 7


def _posterior(scale: float, kind: str, dtype: str, seed: int) -> tuple[Posterior, np.ndarray]:
    moments = np.random.default_rng(seed).standard_normal(SHAPE)
    moments[..., SHAPE[-1] // 2 :] *= scale
    moments = moments.astype(DTYPES[dtype])
    with dtype_scope(DTYPES[dtype]):
        return Posterior(moments if kind == "numpy" else jnp.asarray(moments)), moments


@pytest.mark.parametrize("kind", ["numpy", "jax"])
@pytest.mark.parametrize("scale", SCALES)
def test_a_posterior_is_that_of_diffusers(scale, kind, dtype, options, record):
    posterior, moments = _posterior(SCALES[scale], kind, dtype, options.seed)
    theirs = DiagonalGaussianDistribution(to_torch(moments).movedim(-1, 1))
    of_torch = {"mean": theirs.mean, "logvar": theirs.logvar, "std": theirs.std, "mode": theirs.mode()}
    expected = {name: tensor.movedim(1, -1).to(torch.float64).numpy() for name, tensor in of_torch.items()}
    expected["kl"] = theirs.kl().sum(-1).to(torch.float64).numpy()  # diffusers leaves the width unsummed
    found = {name: getattr(posterior, name) for name in ("mean", "logvar", "std")}
    found |= {"mode": posterior.mode(), "kl": posterior.kl()}
    assert {np.asarray(value).dtype for value in found.values()} == {DTYPES[dtype]}
    found = {name: np.asarray(value, np.float64) for name, value in found.items()}
    check_shapes(found, expected)
    hold(record, POSTERIOR[dtype], measured(POSTERIOR[dtype], found, expected), f"posterior, {scale}, {kind}")


@pytest.mark.parametrize("kind", ["numpy", "jax"])
def test_a_sample_is_the_mean_plus_standard_deviations_of_noise_that_the_key_alone_decides(kind, dtype, options):
    wide, narrow = (_posterior(scale, kind, dtype, options.seed + i)[0] for i, scale in enumerate((2.0, 0.5)))
    tolerance = {"float64": 1e-10, "float32": 1e-3, "bfloat16": 0.3}[dtype]

    def noise(posterior: Posterior, key: int) -> np.ndarray:
        sample, mean, std = (np.asarray(a, np.float64) for a in (posterior.sample(key), posterior.mean, posterior.std))
        return (sample - mean) / std

    drawn = noise(wide, KEY)
    close = np.abs(drawn - noise(narrow, KEY)) <= tolerance * (1 + np.abs(drawn))
    assert close.mean() > (0.9 if dtype == "bfloat16" else 0.999)
    assert abs(drawn.mean()) < 4 / np.sqrt(drawn.size)
    assert abs(drawn.std() - 1) < 4 / np.sqrt(2 * drawn.size)
    assert np.abs(drawn - noise(wide, KEY + 1)).mean() > 0.5
    for axis in range(drawn.ndim):  # noise that one axis shares with its neighbours has a correlation of 1
        assert abs((drawn * np.roll(drawn, 1, axis)).mean()) < 6 / np.sqrt(drawn.size), f"shared along axis {axis}"
