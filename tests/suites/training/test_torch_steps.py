"""The schedule that PyTorch's half of a training goes by."""

from __future__ import annotations

import optax
import pytest

from impl_flax.train.recipes import Recipe, Stage
from suites.training.torch_steps import rate
from twinvae.config import preset_config


def test_a_learning_rate_warms_up_and_then_follows_half_a_cosine():
    recipe = Recipe(config=preset_config("tiny"), stages=(Stage(steps=20, clips=1),), learning_rate=0.5, warmup=4)
    assert [rate(recipe, step) for step in (0, 2, 4)] == [0, 0.25, 0.5]
    assert rate(recipe, 12) == pytest.approx(0.5 * (0.01 + 0.99 / 2))
    expected = optax.warmup_cosine_decay_schedule(0.0, 0.5, 4, 20, 0.005)
    assert [rate(recipe, step) for step in range(20)] == pytest.approx([float(expected(step)) for step in range(20)])
