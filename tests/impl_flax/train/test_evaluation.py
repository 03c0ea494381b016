"""What is said of a trained VAE: the scale of its latents."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from impl_flax.train import evaluation
from twinvae.config import preset_config


def test_the_scaling_factor_is_of_all_latents_together_however_clips_differ_in_brightness_and_length(monkeypatch):
    same = SimpleNamespace(encode=lambda video: SimpleNamespace(mode=lambda: video))  # latents are pixels
    monkeypatch.setattr(evaluation, "load", lambda *given, **options: same)
    rng = np.random.default_rng(0)
    clips = {
        "dark": rng.integers(0, 20, (17, 4, 4, 3), np.uint8),
        "bright": rng.integers(200, 256, (5, 4, 8, 3), np.uint8),
    }
    latents = np.concatenate([clip.ravel() for clip in clips.values()]) / 127.5 - 1
    found = evaluation.scaling_factor(preset_config("tiny"), {}, clips)
    assert found == pytest.approx(1 / latents.std(), abs=1e-5)
