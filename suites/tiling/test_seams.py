"""What tiling does to a picture, per overlap: the step across a seam, and how far tiled is from untiled."""

from __future__ import annotations

import numpy as np
import pytest

from suites.tiling.bars import SEAMS, UNBLENDED
from suites.tiling.seams import difference_map, seams, step_across_seams, steps_along
from twinvae.bench import metrics
from twinvae.bench.bars import hold
from twinvae.registry import REFERENCE
from twinvae.tiles import HEIGHT, WIDTH

pytestmark = pytest.mark.needs("tiling")

# Eighths of a tile of 8 by 8 cells are whole cells: diffusers' rounding leaves the frame as large as it is.
OVERLAPS = (0, 1 / 8, 1 / 4, 1 / 2)
SHOWN = (0, 1 / 4, 1 / 2)
TILE = (64, 64)
FRAMES, FRAME = 9, (128, 224)


@pytest.mark.only(mode=("jit",), dtype=("float32",), asked=True)
@pytest.mark.clip_frames(FRAMES)
@pytest.mark.parametrize("overlap", OVERLAPS)
def test_blended_tiles_show_no_seam(overlap, vae, load, model, clip, once, record, exhibit):
    # What is decoded is the same for every backend.
    latents = once((__name__, model.label), lambda: load(REFERENCE, model, "", "float32").encode(clip(FRAMES, *FRAME)))
    latents = latents.mode()
    vae.disable_tiling()
    untiled = np.asarray(once((__name__, model.label, vae.backend), lambda: vae.decode(latents)))
    vae.enable_tiling(*TILE, overlap, overlap)
    grid = vae.tile_settings.grid("decode", *latents.shape[2:4], vae.config.spatial_compression)
    tiled = np.asarray(vae.decode(latents))

    values = {name: getattr(metrics, name)(tiled, untiled) for name in ("mae", "max_abs", "psnr", "ssim")}
    values["step across seams"] = step_across_seams(tiled, untiled, grid)
    hold(record, SEAMS if overlap else UNBLENDED, values, f"overlap {overlap:g}", operation="decode",
                shape="x".join(map(str, tiled.shape)))  # fmt: skip
    if overlap in SHOWN:
        height, width = tiled.shape[2:4]
        exhibit(
            f"seams {overlap:g} {model.label}",
            {
                "frame": tiled[0, FRAMES // 2],
                "difference": difference_map(tiled, untiled),
                "rows": np.array(seams(grid.rows, height)),
                "columns": np.array(seams(grid.columns, width)),
                "extents": np.array([grid.rows.blend_extent, grid.columns.blend_extent]),
                "steps_down": steps_along(tiled - untiled, HEIGHT),
                "steps_right": steps_along(tiled - untiled, WIDTH),
            },
        )
