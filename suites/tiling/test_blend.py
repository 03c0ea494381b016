"""The blend itself, without a network: its weights, its extent along each axis, and the order in which tiles blend."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest

import twinvae
from suites.tiling.bars import BLEND
from twinvae.bench import metrics
from twinvae.bench.bars import hold
from twinvae.tiles import HEIGHT, WIDTH, Axis, TileGrid, TileSettings, run_tiles

AXES = {"height": HEIGHT, "width": WIDTH}


class Case(NamedTuple):
    """How many cells are blended, in a tile and a neighbour of how many along the axis."""

    extent: int
    tile: int = 12
    neighbour: int = 12

    @property
    def blended(self) -> int:
        return min(self)


CASES: dict[str, Case] = {
    "nothing": Case(0),
    "one cell": Case(1),
    "a few cells": Case(5),
    "all but one cell": Case(11),
    "whole tiles": Case(12),
    "extent larger than the tile": Case(5, tile=3),
    "extent larger than the neighbour": Case(5, neighbour=4),
    "extent larger than both": Case(40, tile=7, neighbour=6),
}
# How the tiles of a frame that the network leaves as it is (every cell 8 times) are put together again.
WHOLE_CELLS: dict[str, TileSettings] = {
    "no overlap": TileSettings(32, 24, 0, 0),
    "a quarter and a third": TileSettings(32, 24, 1 / 4, 1 / 3),
    "half and two thirds": TileSettings(32, 24, 1 / 2, 2 / 3),
    "three quarters": TileSettings(32, 32, 3 / 4, 3 / 4),
}
FRAME, COMPRESSION = (6, 5), 8  # latent cells, and pixels in one of them

pytestmark = [pytest.mark.needs("tiling", "step"), pytest.mark.only(once=True, dtype=("float64",), large=False)]
every_case = pytest.mark.parametrize("case", CASES)
each_axis = pytest.mark.parametrize("axis", AXES)


@each_axis
@every_case
def test_a_blend_is_that_of_diffusers(case, axis, vae, reference, record):
    spec, rng = CASES[case], np.random.default_rng(0)
    tile, neighbour = (along(axis, rng.normal(size=(2, 3, cells, 5, 4))) for cells in (spec.tile, spec.neighbour))
    expected = reference.blend(tile, neighbour, spec.extent, AXES[axis])
    values = {"max_abs": metrics.max_abs(blended(vae, tile, neighbour, case, axis), expected)}
    hold(record, BLEND, values, f"blend of {case}, {axis}")


@each_axis
@every_case
def test_a_constant_stays_constant(case, axis, vae):
    tile, neighbour = (along(axis, np.full((1, 2, cells, 3, 1), 0.7)) for cells in CASES[case][1:])
    np.testing.assert_allclose(blended(vae, tile, neighbour, case, axis), 0.7, rtol=0, atol=1e-15)


@each_axis
@every_case
def test_weights_rise_by_equal_steps_from_nothing_and_add_up_to_one(case, axis, vae):
    spec = CASES[case]
    of_tile, of_neighbour = (
        blended(vae, *(along(axis, np.full((1, 1, cells, 1, 1), value)) for cells, value in values), case, axis).ravel()
        for values in (((spec.tile, 1.0), (spec.neighbour, 0.0)), ((spec.tile, 0.0), (spec.neighbour, 1.0)))
    )
    steps = np.arange(spec.blended) / max(spec.blended, 1)
    np.testing.assert_allclose(of_tile, [*steps, *np.ones(spec.tile - spec.blended)], rtol=0, atol=1e-15)
    np.testing.assert_allclose(of_tile + of_neighbour, 1, rtol=0, atol=1e-15)


@each_axis
@every_case
@pytest.mark.parametrize("offset", [0.0, 2.5])
def test_a_ramp_stays_monotone(case, axis, offset, vae):
    spec = CASES[case]
    place = np.arange(spec.neighbour - spec.blended + spec.tile, dtype=np.float64)
    neighbour = along(axis, place[: spec.neighbour].reshape(1, 1, -1, 1, 1))
    tile = along(axis, place[spec.neighbour - spec.blended :].reshape(1, 1, -1, 1, 1)) + offset
    joined = [*place[: spec.neighbour - spec.blended], *blended(vae, tile, neighbour, case, axis).ravel()]
    assert (np.diff(joined) > 0).all()
    if offset == 0:
        np.testing.assert_allclose(joined, place, rtol=0, atol=1e-14)


@pytest.mark.parametrize("settings", WHOLE_CELLS)
def test_tiles_that_agree_are_put_together_as_they_were(settings, vae):
    latents = np.random.default_rng(0).normal(size=(2, 3, *FRAME, 4))
    grid = WHOLE_CELLS[settings].grid("decode", *FRAME, COMPRESSION)
    np.testing.assert_allclose(joined(vae, latents, grid, enlarged), enlarged(latents), rtol=0, atol=1e-14)


def test_a_tile_blends_with_neighbours_that_are_blended_themselves_above_first(vae):
    high, wide = 3, 4  # cells that are blended; not the same, so that neither axis can take the other's
    grid = TileGrid(Axis((slice(0, 8), slice(5, 13)), high, 5), Axis((slice(0, 9), slice(5, 14)), wide, 5))
    values = iter((1.0, 10.0, 100.0, 1000.0))
    found = joined(vae, np.zeros((1, 1, 13, 14, 1)), grid, lambda tile: tile + next(values))[0, 0, 5:, 5:, 0]

    y, x = np.minimum(np.arange(8) / high, 1)[:, None], np.minimum(np.arange(9) / wide, 1)[None]
    above = 1 * (1 - x) + 10 * x  # faded into from its left, before it is faded out of
    left = 1 * (1 - y) + 100 * y
    below = above * (1 - y) + 1000 * y
    expected = (left * (1 - x) + below * x)[:5, :5]
    np.testing.assert_allclose(found[:5, :5], expected, rtol=0, atol=1e-11)


def along(axis: str, clip: np.ndarray) -> np.ndarray:
    """The same clip with its third axis, the height, along `axis`."""
    return clip if axis == "height" else clip.swapaxes(HEIGHT, WIDTH)


def blended(vae: twinvae.VideoVAE, tile: np.ndarray, neighbour: np.ndarray, case: str, axis: str) -> np.ndarray:
    return np.asarray(vae.blend(*on_device(vae, tile, neighbour), CASES[case].extent, AXES[axis]))


def joined(
    vae: twinvae.VideoVAE, clip: np.ndarray, grid: TileGrid, run_tile: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    def run(tile: np.ndarray) -> np.ndarray:
        return on_device(vae, run_tile(tile))[0]

    return np.asarray(run_tiles(clip, grid, run, vae.blend, vae.concatenate))


def on_device(vae: twinvae.VideoVAE, *clips: np.ndarray) -> list[np.ndarray]:
    """As the arrays that this backend's network gives."""
    return [vae.concatenate([clip], axis=0) for clip in clips]


def enlarged(latents: np.ndarray) -> np.ndarray:
    return latents.repeat(COMPRESSION, axis=HEIGHT).repeat(COMPRESSION, axis=WIDTH)
