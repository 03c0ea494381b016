"""Seams that can be pointed at: trained weights on a real frame, in tiles without an overlap and with the default."""

from __future__ import annotations

import numpy as np
import pytest

from suites.tiling.bars import SEEN, STEP, UNSEEN
from suites.tiling.seams import crop_at, step_across_seams
from twinvae.bench.bars import hold
from twinvae.bench.models import TRAINED
from twinvae.registry import REFERENCE

CLIP, TILE = (9, 128, 192), (96, 80)  # tiles of 12x10 cells, of which the default overlaps are two each
DEFAULT = (1 / 6, 1 / 5)
SHOWN = 48  # pixels of a crop's side

pytestmark = [pytest.mark.clip_frames(CLIP[0]), pytest.mark.needs("tiling")]


def rows(options):
    """In float32, and where little is to be computed of one backend; ports have weights of their own."""
    own = [backend for backend in options.backends if backend not in (REFERENCE, *options.ports)]
    return [{"backend": backend, "dtype": "float32"} for backend in (own[:1] if options.one_round else own)
            if "float32" in options.dtypes]  # fmt: skip


@pytest.mark.cases("backend, dtype", rows)
def test_a_seam_shows_without_an_overlap_and_not_with_the_default(backend, dtype, trained, film, once, record, exhibit):
    latents = once(__name__, lambda: trained(REFERENCE, dtype).encode(film(*CLIP)).mean)
    vae = trained(backend, dtype)
    untiled = np.asarray(vae.decode(latents))
    crops, place = {}, None
    for name, overlaps, bars in (("none", (0, 0), SEEN), ("default", DEFAULT, UNSEEN)):
        vae.enable_tiling(*TILE, *overlaps)
        grid = vae.tile_settings.grid("decode", *latents.shape[2:4], vae.config.spatial_compression)
        tiled = np.asarray(vae.decode(latents))
        values = {STEP: step_across_seams(tiled, untiled, grid)}
        hold(record, bars, values, f"trained, overlap {name}", operation="decode", preset=TRAINED.label,
             mode="jit", shape="x".join(map(str, tiled.shape)))  # fmt: skip
        place = place or crop_at(tiled - untiled, grid, SHOWN)
        crops[name] = tiled[0, CLIP[0] // 2, *place]
    exhibit("crops", crops | {"untiled": untiled[0, CLIP[0] // 2, *place]})
