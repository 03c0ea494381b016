"""A change that keeps one more activation alive is called regressed, on a machine without a TPU."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import twinvae
from twinvae.bench.aot.tpu_compiler import compiled
from twinvae.bench.baselines import Entry
from twinvae.bench.records import Record
from twinvae.bench.verdicts import judge

INIT = {"in_channels": 16, "out_channels": 16, "kernel_size": 3}
SHAPE = (1, 4, 48, 64, 16)
DEPTH = 6


@pytest.fixture(scope="module")
def convolve():
    """A causal convolution of the Flax backend."""
    rng = np.random.default_rng(0)
    tensors = {
        "conv.weight": rng.normal(size=(16, 16, 3, 3, 3)).astype(np.float32),
        "conv.bias": rng.normal(size=16).astype(np.float32),
    }
    layer = twinvae.load_layer("flax", "CogVideoXCausalConv3d", INIT, tensors)
    return lambda x: jnp.tanh(layer(x)[0])


def peak(convolve, kept: bool) -> float:
    """Of a chain of layers; `kept` adds the first one's output to the last one's, so that it lives till then."""

    def chain(x):
        first = x = convolve(x)
        for _ in range(DEPTH):
            x = convolve(x)
        return x + first if kept else x

    return compiled(jax.jit(chain).lower(jax.ShapeDtypeStruct(SHAPE, jnp.float32))).peak_bytes / 1e6


def test_one_more_activation_kept_alive_is_called_regressed(convolve):
    before, after = (peak(convolve, kept) for kept in (False, True))
    activation = 4 * np.prod(SHAPE) / 1e6
    assert after - before == pytest.approx(activation, rel=0.25)
    row = Record(suite="memory", case="chain", metric="peak", unit="MB", value=after, tolerance=1.02)
    verdict = judge(row, Entry(case="chain", metric="peak", value=before))
    assert verdict.status == "regressed"
    assert verdict.reason.startswith("the baseline allows")
    assert (
        judge(row.model_copy(update={"value": before}), Entry(case="chain", metric="peak", value=before)).status
        == "pass"
    )
