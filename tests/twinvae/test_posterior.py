"""Posterior, beside what the parity suite asks of it: it cannot be changed, and what draws samples."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from twinvae import Posterior

MOMENTS = np.linspace(-1, 1, 24, dtype=np.float32).reshape(1, 1, 2, 3, 4)


def drawn(key: Any) -> list[float]:
    return np.asarray(Posterior(MOMENTS).sample(key)).ravel().tolist()


def test_a_posterior_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Posterior(np.zeros((1, 1, 1, 1, 2))).moments = np.ones((1, 1, 1, 1, 2))


SAME = {
    "NumPy integer": np.int64(1), "NumPy small integer": np.uint8(1), "NumPy array": np.array(1), "bool": True,
    "JAX integer": jnp.asarray(1), "torch integer": torch.tensor(1), "JAX key": jax.random.key(1),
    "raw JAX key": jax.random.PRNGKey(1), "raw key in NumPy": np.array([0, 1], np.uint32),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAME)
def test_integers_and_keys_of_any_kind_draw_what_the_integer_draws(kind):
    assert drawn(SAME[kind]) == drawn(1) != drawn(0)


def test_a_traced_integer_draws_what_the_integer_draws():
    traced = jax.jit(lambda key: Posterior(jnp.asarray(MOMENTS)).sample(key))(1)
    np.testing.assert_allclose(np.asarray(traced).ravel(), drawn(1), rtol=1e-6)


def test_large_seeds_draw_samples_of_their_own():
    assert len({tuple(drawn(key)) for key in (0, -1, 2**31, 2**32, 2**40, -(2**40), 2**63 - 1)}) == 7


NO_KEYS = {
    "none": None, "float": 1.0, "NumPy float": np.float32(1), "text": "1", "torch generator": torch.Generator(),
    "NumPy generator": np.random.default_rng(0), "too large": 2**70,
    "several keys": jax.random.split(jax.random.key(0)),
    "several integers": np.arange(3), "floats": jnp.zeros(2), "torch floats": torch.zeros(2),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_KEYS)
def test_what_is_no_key_is_named(kind):
    with pytest.raises(ValueError, match=r"key is .*expected an integer.*such as key=0, or one JAX random key"):
        drawn(NO_KEYS[kind])
