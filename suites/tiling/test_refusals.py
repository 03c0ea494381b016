"""Tilings that cannot work are refused before anything is computed, in words that say what to do."""

from __future__ import annotations

import re

import numpy as np
import pytest

from suites.tiling.bars import TILED
from twinvae.bench.bars import check_shapes, hold, measured

# Arguments of enable_tiling: height and width of a tile, then their overlaps; and what the message says.
REFUSED: dict[str, tuple[tuple[object, ...], str]] = {
    "overlap of all": ((24, 16, 1.0, 0.5), r"tile_overlap_factor_height is 1\.0: .* at least 0 and below 1"),
    "overlap above all": ((24, 16, 0.5, 1.5), r"tile_overlap_factor_width is 1\.5: .* at least 0 and below 1"),
    "overlap below 0": ((24, 16, -0.1, 0.5), r"tile_overlap_factor_height is -0\.1"),
    "overlap that is no number": ((24, 16, 0.5, float("nan")), r"tile_overlap_factor_width is nan"),
    "tile of nothing": ((0, 16), r"tile_sample_min_height is 0: .* one latent cell, 8 pixels"),
    "tile below one latent cell": ((24, 7), r"tile_sample_min_width is 7: .* one latent cell, 8 pixels"),
    "tile of half pixels": ((24.5, 16), r"tile_sample_min_height is 24\.5: .* whole number of pixels"),
    "one cell and half of it overlap": (
        (8, 16, 0.5, 0.5),
        r"height 8 with .*height 0\.5 leaves no room.* larger tiles",
    ),
    "ten cells and nine of them overlap": ((24, 80, 0, 0.91), r"width 80 with .*width 0\.91 leaves no room"),
}
# Frames whose last tile is too small to encode: height and width, then the axis and the sliver that are named.
SLIVERS: dict[str, tuple[tuple[int, int], str, int]] = {
    "last row 7 pixels high": ((39, 16), "height", 7),
    "last column 2 pixels wide": ((8, 34), "width", 2),
}
TILE = (24, 16)

pytestmark = [pytest.mark.needs("tiling", "house"), pytest.mark.only(once=True, large=False)]


@pytest.mark.parametrize("case", REFUSED)
def test_a_tiling_that_leaves_no_room_is_refused_and_changes_nothing(case, vae):
    settings, message = REFUSED[case]
    before = vars(vae.tile_settings).copy(), vae.use_tiling
    with pytest.raises(ValueError, match=message):
        vae.enable_tiling(*settings)
    assert (vars(vae.tile_settings), vae.use_tiling) == before


@pytest.mark.parametrize("case", SLIVERS)
def test_a_sliver_is_refused_before_any_compute_with_a_tile_size_that_works(
    case, vae, reference, dtype, monkeypatch, record
):
    size, axis, sliver = SLIVERS[case]
    overlaps = {"tile_overlap_factor_height": 1 / 3, "tile_overlap_factor_width": 0.5 if axis == "width" else 0}
    video = np.random.default_rng(0).uniform(-1, 1, (1, 3, *size, vae.config.in_channels))
    vae.enable_tiling(*TILE, **overlaps)
    for attempt in (vae.encode, lambda video: next(vae.encode_stream(video))):
        monkeypatch.setattr(vae, "run_frame_batch", lambda *_, **__: pytest.fail("it computed before it checked"))
        with pytest.raises(ValueError, match=f"along {axis} is {sliver} pixels") as refusal:
            attempt(video)
    monkeypatch.undo()
    offered = re.search(r"set (tile_sample_min_\w+) to (\d+)", str(refusal.value))
    for one in (vae, reference):
        one.enable_tiling(*TILE, **overlaps)
        one.enable_tiling(**{offered[1]: int(offered[2])})
    expected, found = ({"moments": np.asarray(one.encode(video).moments)} for one in (reference, vae))
    check_shapes(found, expected)
    hold(record, TILED[dtype], measured(TILED[dtype], found, expected), f"tile offered for {case}", operation="encode")


def test_diffusers_cannot_encode_less_than_a_latent_cell_either(model, reference):
    cell = model.config.spatial_compression
    clip = np.zeros((1, 1, 2 * cell, cell, model.config.in_channels))
    reference.run_frame_batch("encode", clip, None)
    for sliver in (clip[:, :, : cell - 1], clip[:, :, :, : cell - 1]):
        with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
            reference.run_frame_batch("encode", sliver, None)


# Arguments of enable_tiling, for latents of 6x4 cells, and others that make as many tiles, or another number.
OTHER_TILES = {
    "larger tiles, as many": ((24, 16, 0, 0), (32, 16, 0, 0)),
    "wider tiles, as many": ((24, 16, 0, 0), (24, 24, 0, 0)),
    "rows overlap, as many tiles": ((32, 16, 0, 0), (32, 16, 1 / 4, 0)),
    "columns overlap, as many tiles": ((24, 24, 0, 0), (24, 24, 0, 1 / 3)),
    "rows blended farther, the same tiles": ((32, 16, 0.3, 0), (32, 16, 0.5, 0)),
    "columns blended farther, the same tiles": ((24, 24, 0, 0.4), (24, 24, 0, 0.5)),
    "more rows": ((24, 16, 0, 0), (24, 16, 1 / 3, 0)),
    "more columns": ((24, 16, 0, 0), (24, 16, 0, 1 / 2)),
    "none": ((24, 16, 0, 0), (48, 32, 0, 0)),
}


@pytest.mark.parametrize("case", OTHER_TILES)
def test_a_stream_does_not_go_on_with_another_tiling(case, vae, monkeypatch):
    def enlarge(operation, frames, *_):  # what tiles come to, without a network
        scale = vae.config.spatial_compression
        return np.asarray(frames).repeat(scale, 2).repeat(scale, 3), ()

    monkeypatch.setattr(vae, "run_frame_batch", enlarge)
    latents = np.zeros((1, 5, 6, 4, vae.config.latent_channels))
    one, other = OTHER_TILES[case]
    for begun_with, resumed_with in ((one, other), (other, one)):
        vae.enable_tiling(*begun_with)
        begun = vae.decode_stream(latents[:, :3])
        next(begun)
        next(vae.decode_stream(latents[:, 3:], begun.cache))
        vae.enable_tiling(*resumed_with)
        with pytest.raises(ValueError, match="resume with the tiling that the cache was made with"):
            vae.decode_stream(latents[:, 3:], begun.cache)
