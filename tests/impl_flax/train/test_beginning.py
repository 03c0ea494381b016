"""The weights that training begins with, fitted to clips."""

from __future__ import annotations

import numpy as np
import pytest

from impl_flax.train import beginning
from twinvae.config import DOWN_BLOCK, UP_BLOCK, VAEConfig

CONFIG = VAEConfig(
    block_out_channels=(4, 4), down_block_types=(DOWN_BLOCK,) * 2, up_block_types=(UP_BLOCK,) * 2, latent_channels=2,
    layers_per_block=1, norm_num_groups=2,
)  # fmt: skip


def test_a_fit_to_some_rows_is_to_rows_of_every_clip(monkeypatch):
    strength = np.array([1e-3, 1, 1e-3]).reshape(3, 1, 1, 1, 1)  # what is fitted to a faint clip alone is 1000 times it
    video = strength * np.random.default_rng(0).uniform(-1, 1, (3, 5, 24, 24, 3))
    layer = "encoder.down_blocks.0.downsamplers.0.conv.weight"
    every = beginning.fitted_tensors(CONFIG, 0, video)[layer]
    monkeypatch.setattr(beginning, "ROWS", 280)  # of 288 in each clip
    some = beginning.fitted_tensors(CONFIG, 0, video)[layer]
    assert np.linalg.norm(some) == pytest.approx(np.linalg.norm(every), rel=0.5)
