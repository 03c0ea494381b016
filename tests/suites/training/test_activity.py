"""What is counted of a model's insides, on one whose insides are known."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from suites.training.activity import activities
from twinvae.config import DOWN_BLOCK, UP_BLOCK, VAEConfig

CONFIG = VAEConfig(
    block_out_channels=(8, 8), down_block_types=(DOWN_BLOCK,) * 2, up_block_types=(UP_BLOCK,) * 2, latent_channels=2,
    layers_per_block=1, norm_num_groups=2,
)  # fmt: skip


def test_a_dead_channel_flat_activations_and_a_large_mean_are_counted_where_they_are():
    torch.manual_seed(0)
    model = AutoencoderKLCogVideoX.from_config(CONFIG.to_dict())
    first = "encoder.down_blocks.0.resnets.0"
    with torch.no_grad():
        block = model.get_submodule(first)
        block.norm1.weight[3], block.norm1.bias[3] = 0, 2  # its SiLU is given the same everywhere
        block.norm2.weight[5], block.norm2.bias[5] = 1e-3, -9
        block.conv1.conv.bias[:4] += 100  # of norm2's first group
        found = {one.name: one for one in activities(model, [torch.randn(1, 3, 1, 8, 8)])}
    assert found[f"{first}.norm1"].dead == found[f"{first}.norm2"].dead == found[f"{first}.norm2"].flat == 1 / 8
    assert found[f"{first}.norm2"].least == pytest.approx(-9, abs=0.01)
    assert found[f"{first}.norm2"].mean > 50
    assert found[f"{first}.norm1"].mean < 5
    assert found[f"{first}.norm1"].flat == found["encoder.norm_out"].dead == 0
    assert list(found)[-1] == "decoder.norm_out.norm_layer"
