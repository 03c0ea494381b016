"""Run a function over the tiles of a clip and blend what comes out, in diffusers' order."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from twinvae.tiles import TileGrid

HEIGHT, WIDTH = 2, 3
LONG_GRID = 16  # tiles from which on a terminal shows how far a grid has come
Clip = Float[Array, "b t h w c"]


def run_tiles(
    clip: Clip,
    grid: TileGrid,
    run_tile: Callable[[Clip], Clip],
    blend: Callable[[Clip, Clip, int, int], Clip],
    concatenate: Callable[[list[Clip], int], Clip],
) -> Clip:
    """Run each tile, blend it with the tile above and then with the tile on its left, crop, and join.

    diffusers blends in place: both neighbours have been blended themselves. Only one row of tiles is held.

    Args:
        blend: `blend(tile, neighbour, extent, axis)`.
        concatenate: `concatenate(parts, axis)`.
    """
    rows = []
    above: list[Clip] = []
    with _progress(len(grid.rows.slices) * len(grid.columns.slices)) as done:
        for row in grid.rows.slices:
            blended: list[Clip] = []
            for index, column in enumerate(grid.columns.slices):
                tile = run_tile(clip[:, :, row, column])
                if above:
                    tile = blend(tile, above[index], grid.rows.blend_extent, HEIGHT)
                if blended:
                    tile = blend(tile, blended[-1], grid.columns.blend_extent, WIDTH)
                blended.append(tile)
                done(tile)
            kept = [tile[:, :, : grid.rows.limit, : grid.columns.limit] for tile in blended]
            rows.append(concatenate(kept, WIDTH))
            above = blended
    return concatenate(rows, HEIGHT)


@contextmanager
def _progress(tiles: int) -> Iterator[Callable[[Clip], None]]:
    """What to call with each tile that is done: shown on stderr where that is a terminal and the grid is long."""
    if tiles < LONG_GRID or not sys.stderr.isatty():
        yield lambda tile: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("tiles", total=tiles)

        def done(tile: Clip) -> None:
            jax.block_until_ready(tile)  # else what is shown is how fast tiles are queued
            progress.advance(task)

        yield done


def blend(tile: Clip, neighbour: Clip, extent: int, axis: int) -> Clip:
    """Fade from the neighbour's last `extent` cells into the tile's first ones along `axis`.

    Cell k of the tile weighs k / extent, the neighbour the rest (diffusers' `blend_v` and `blend_h`).
    """
    extent = min(tile.shape[axis], neighbour.shape[axis], extent)
    if extent == 0:
        return tile
    ramp_shape = [1] * tile.ndim
    ramp_shape[axis] = extent
    ramp = (jnp.arange(extent, dtype=jnp.promote_types(tile.dtype, jnp.float32)) / extent).reshape(ramp_shape)
    size = neighbour.shape[axis]
    fading = lax.slice_in_dim(neighbour, size - extent, size, axis=axis)
    first = lax.slice_in_dim(tile, 0, extent, axis=axis)
    mixed = fading * (1 - ramp) + first * ramp
    return jnp.concatenate([mixed.astype(tile.dtype), lax.slice_in_dim(tile, extent, None, axis=axis)], axis)
