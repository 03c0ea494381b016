"""Tile grids and blending, against diffusers' own tiled loops run on a stand-in for the network."""

from __future__ import annotations

import sys
import weakref
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

from twinvae import PRESETS
from twinvae.jax.tiling import blend
from twinvae.tiles import TileSettings, run_tiles

COMPRESSION = 8
# height and width of the tile, then their overlaps
SETTINGS = {
    "diffusers' defaults": TileSettings(240, 360),
    "square": TileSettings(32, 32, 0.25, 0.25),
    "wide overlap": TileSettings(32, 32, 0.5, 0.75),
    "no overlap": TileSettings(24, 16, 0.0, 0.0),
    "extents that round to 0": TileSettings(16, 16, 0.05, 0.1),
    "no multiples of the compression": TileSettings(30, 45, 1 / 6, 1 / 5),
    "one latent cell": TileSettings(8, 8, 0.0, 0.0),
    "tiles of latents of their own": TileSettings(32, 24, 0.25, 0.5, 3, 5),
    "larger tiles of latents": TileSettings(16, 16, 0.25, 0.25, 6, 4),
}
FRAMES = {"encode": [(64, 96), (94, 105), (480, 720)], "decode": [(8, 12), (9, 7), (1, 13), (31, 46)]}
BLENDED = {
    ("encode", (62, 120)): ["square", "no overlap", "no multiples of the compression"],
    ("decode", (9, 7)): [name for name in SETTINGS if name != "wide overlap"],
    ("decode", (6, 4)): ["wide overlap"],
}


class StandIn:
    """A network without weights whose output depends on the whole tile, so that neighbours disagree at a seam."""

    def __init__(self, operation: str):
        self.operation = operation
        self.tiles: list[tuple[int, ...]] = []

    def torch(self, tile: torch.Tensor, conv_cache: None = None) -> tuple[torch.Tensor, None]:
        self.tiles.append((*tile.shape[3:], int(tile[0, 0, 0, 0, 0])))
        return torch.from_numpy(self.numpy(tile.numpy(), axes=(3, 4))), None

    def numpy(self, tile: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
        out = tile
        for axis in axes:
            if self.operation == "encode":
                kept = tile.shape[axis] // COMPRESSION * COMPRESSION
                out = np.take(out, range(0, kept, COMPRESSION), axis)
            else:
                out = np.repeat(out, COMPRESSION, axis)
        return out + np.cos(tile.sum())


def diffusers_tiled(operation: str, settings: TileSettings, clip: np.ndarray, network: StandIn) -> np.ndarray:
    stand_in = SimpleNamespace(
        **vars(settings.in_cells(COMPRESSION)),
        num_sample_frames_batch_size=2,
        num_latent_frames_batch_size=2,
        encoder=network.torch,
        decoder=network.torch,
        quant_conv=None,
        post_quant_conv=None,
    )
    for name in ("blend_v", "blend_h"):
        setattr(stand_in, name, getattr(AutoencoderKLCogVideoX, name).__get__(stand_in))
    out = getattr(AutoencoderKLCogVideoX, f"tiled_{operation}")(
        stand_in, torch.from_numpy(clip.transpose(0, 4, 1, 2, 3))
    )
    out = out if operation == "encode" else out.sample
    return out.numpy().transpose(0, 2, 3, 4, 1)


@pytest.mark.parametrize(
    ("operation", "size"), [(operation, size) for operation, sizes in FRAMES.items() for size in sizes]
)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_tiles_are_those_of_diffusers_in_its_order(operation, size, settings):
    places = np.arange(size[0] * size[1], dtype=np.float64).reshape(1, 1, *size, 1)
    network = StandIn(operation)
    diffusers_tiled(operation, settings, places, network)
    if operation == "encode" and min(min(tile[:2]) for tile in network.tiles) < COMPRESSION:
        with pytest.raises(ValueError, match="the last tile along"):
            settings.grid(operation, *size, COMPRESSION)
        return
    grid = settings.grid(operation, *size, COMPRESSION)
    assert network.tiles == [
        (row.stop - row.start, column.stop - column.start, places[0, 0, row.start, column.start, 0])
        for row in grid.rows.slices
        for column in grid.columns.slices
    ]


@pytest.mark.parametrize(
    ("operation", "size", "settings"),
    [
        pytest.param(operation, size, SETTINGS[name], id=f"{operation}-{name}")
        for (operation, size), names in BLENDED.items()
        for name in names
    ],
)
def test_blended_tiles_are_those_of_diffusers(operation, size, settings):
    clip = np.random.default_rng(0).normal(size=(1, 2, *size, 1))
    network = StandIn(operation)
    expected = diffusers_tiled(operation, settings, clip, network)

    def blended(tile: np.ndarray, neighbour: np.ndarray, extent: int, axis: int) -> np.ndarray:
        with jax.enable_x64(True):
            return np.asarray(blend(jnp.asarray(tile), jnp.asarray(neighbour), extent, axis))

    grid = settings.grid(operation, *size, COMPRESSION)
    found = run_tiles(clip, grid, lambda tile: network.numpy(tile, axes=(2, 3)), blended, np.concatenate)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("operation", ["encode", "decode"])
@pytest.mark.parametrize(("height", "width"), [(64, 96), (65, 96), (64, 97), (8, 8)])
def test_a_frame_is_tiled_when_it_is_larger_than_a_tile(operation, height, width):
    scale = COMPRESSION if operation == "decode" else 1
    settings = TileSettings(64 * scale, 96 * scale)
    larger = height > 64 or width > 96
    assert settings.needs_tiles(operation, height, width, COMPRESSION) == larger


def test_default_tiles_are_half_the_sample_size_as_in_diffusers():
    config = PRESETS["tiny"]
    with torch.device("meta"):
        model = AutoencoderKLCogVideoX(**config.model_dump())
    settings = TileSettings.of(config).in_cells(COMPRESSION)
    assert vars(settings) == {name: getattr(model, name) for name in vars(settings)}


REFUSED = {
    "overlap of all": (TileSettings(32, 32, 1.0, 0.2), r"tile_overlap_factor_height is 1.0: it must be .* below 1"),
    "overlap below 0": (TileSettings(32, 32, 0.2, -0.1), r"tile_overlap_factor_width is -0.1"),
    "tile below a cell": (TileSettings(32, 7), r"tile_sample_min_width is 7: .* one latent cell, 8 pixels"),
    "no room beside the overlap": (TileSettings(8, 32, 0.5, 0.2), r"tile_sample_min_height 8 .* leaves no room"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_settings_that_cannot_tile_are_refused_by_name(settings, message):
    with pytest.raises(ValueError, match=message):
        settings.grid("decode", 100, 100, COMPRESSION)


def test_a_sliver_is_refused_and_the_tile_size_that_is_offered_works():
    refused = 0
    for overlap in (0.0, 1 / 6, 0.25, 0.5, 0.9):
        for tile in range(COMPRESSION, 60, 3):
            for size in range(COMPRESSION, 90):
                try:
                    TileSettings(tile, 1024, overlap, 0.0).grid("encode", size, 1024, COMPRESSION)
                except ValueError as error:
                    if "no room" in str(error):
                        continue
                    refused += 1
                    offered = int(str(error).rsplit(maxsplit=1)[-1])
                    TileSettings(offered, 1024, overlap, 0.0).grid("encode", size, 1024, COMPRESSION)
    assert refused > 100


@pytest.mark.parametrize(("on_terminal", "cells", "shown"), [(True, 9, True), (True, 2, False), (False, 9, False)])
def test_long_grids_show_how_far_they_are_on_a_terminal_alone(on_terminal, cells, shown, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: on_terminal)
    grid = TileSettings(8, 16, 0, 0).grid("decode", cells, cells, COMPRESSION)
    clip = np.zeros((1, 1, cells, cells, 1))
    run_tiles(clip, grid, lambda tile: tile, lambda tile, *_: tile, np.concatenate)
    printed = capsys.readouterr()
    assert ("100%" in printed.err) == shown
    assert not printed.out


def test_no_more_tiles_are_held_than_two_rows_have():
    grid, held, most = TileSettings(16, 16, 0.25, 0.25).grid("decode", 10, 6, COMPRESSION), [], []

    def made(tile):
        held.append(weakref.ref(tile))
        return tile

    def run(tile):
        most.append(sum(one() is not None for one in held))
        return made(tile.repeat(COMPRESSION, 2).repeat(COMPRESSION, 3))

    run_tiles(np.zeros((1, 1, 10, 6, 1)), grid, run, lambda tile, *_: made(tile.copy()), np.concatenate)
    rows, columns = len(grid.rows.slices), len(grid.columns.slices)
    assert rows > 3
    assert max(most) <= 2 * columns
