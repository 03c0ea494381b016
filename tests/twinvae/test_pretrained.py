"""Presets whose weights were trained and are part of the package."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers import AutoencoderKLCogVideoX

from twinvae.checkpoint import WEIGHTS_FILE, read_checkpoint
from twinvae.config import preset_config
from twinvae.pretrained import TRAINED, preset_tensors
from twinvae.seeded import seeded_tensors


@pytest.mark.parametrize("name", TRAINED)
def test_a_trained_presets_checkpoint_is_of_its_config_and_diffusers_reads_it(name):
    config, tensors = read_checkpoint(TRAINED[name])
    assert config == preset_config(name)
    assert (TRAINED[name] / WEIGHTS_FILE).stat().st_size <= 6_000_000
    model = AutoencoderKLCogVideoX.from_pretrained(TRAINED[name])
    for key, tensor in model.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), tensors[key])


def test_a_trained_preset_is_the_same_for_every_seed_and_others_are_seeded():
    one, other = (preset_tensors("small", seed) for seed in (0, 1))
    assert all((one[name] == other[name]).all() for name in one)
    tiny, seeded = preset_tensors("tiny", 1), seeded_tensors(preset_config("tiny"), 1)
    assert all((tiny[name] == seeded[name]).all() for name in tiny)
