"""What denoising starts with: the latents of an image or of a video, scaled as diffusers' pipelines scale them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import twinvae
from stages.conditions import Condition


@pytest.mark.parametrize(("kind", "scaled"), [("image", True), ("video", False)])
def test_an_inverted_scale_is_that_of_images_alone(kind, scaled, model, monkeypatch):
    vae = twinvae.load("torch", dtype="float64")

    def drawn(inverted: bool) -> np.ndarray:
        config = vae.config.model_copy(update={"invert_scale_latents": inverted})
        monkeypatch.setattr(twinvae, "load", lambda *_, **__: SimpleNamespace(encode=vae.encode, config=config))
        pixels = np.linspace(-1, 1, 16 * 16 * 3).reshape(1, 1, 16, 16, 3)
        return Condition(kind, pixels=pixels, model=model, latents=1).draw(torch.Generator().manual_seed(0), "float64")

    factor = vae.config.scaling_factor**2 if scaled else 1
    np.testing.assert_allclose(drawn(True) * factor, drawn(False), rtol=1e-12)
