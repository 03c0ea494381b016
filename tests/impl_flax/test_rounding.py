"""Layers whose result is rounded once in bfloat16, held to PyTorch's own."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.activations import ACT2CLS

from impl_flax.layers import ACTIVATIONS, activate


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_an_activation_in_bfloat16_errs_no_more_than_torchs(kind):
    x = torch.linspace(-9, 9, 2001).bfloat16()
    function = ACT2CLS[kind]()
    exact = function(x.double()).numpy()
    found = activate(jnp.asarray(x.float().numpy(), jnp.bfloat16), kind)
    assert found.dtype == jnp.bfloat16
    error = np.abs(np.asarray(found, np.float64) - exact).mean()
    # Rounded after each operation, silu errs 1.30 times as much as torch's, gelu 1.18, mish 1.14; rounded once, 1.00.
    assert error <= 1.01 * np.abs(function(x).double().numpy() - exact).mean()
