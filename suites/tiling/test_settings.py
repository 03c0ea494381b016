"""Tile settings that are set in part, in diffusers' own two ways: what is left of the others."""

from __future__ import annotations

import itertools

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

ASSIGNED = {
    "tile_sample_min_height": 48, "tile_sample_min_width": 56, "tile_overlap_factor_height": 0.25,
    "tile_overlap_factor_width": 0.5, "tile_latent_min_height": 2, "tile_latent_min_width": 3,
}  # fmt: skip
GIVEN = {
    "tile_sample_min_height": 32, "tile_sample_min_width": 40, "tile_overlap_factor_height": 0.125,
    "tile_overlap_factor_width": 0.2,
}  # fmt: skip


def choices(settings: dict[str, float]) -> list[dict[str, float]]:
    """Every choice of settings, from none to all."""
    chosen = [names for count in range(len(settings) + 1) for names in itertools.combinations(settings, count)]
    return [{name: settings[name] for name in names} for names in chosen]


@pytest.mark.needs("tiling", "house")
@pytest.mark.only(once=True, large=False)
def test_tiling_asked_for_in_part_after_attributes_were_assigned_leaves_what_it_leaves_in_diffusers_class(vae):
    with torch.device("meta"):
        model = AutoencoderKLCogVideoX(**vae.config.model_dump())
    loaded = {name: getattr(model, name) for name in ASSIGNED}
    for assigned, given in itertools.product(choices(ASSIGNED), choices(GIVEN)):
        for owner in (vae, model):
            for name, value in (loaded | assigned).items():
                setattr(owner, name, value)
            owner.enable_tiling(**given)
        found, expected = ({name: getattr(owner, name) for name in ASSIGNED} for owner in (vae, model))
        assert found == expected, f"{assigned} assigned, then enable_tiling with {given}"
