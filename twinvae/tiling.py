"""Run a function over the tiles of a clip and blend what comes out, in diffusers' order."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from twinvae.tiles import TileGrid

HEIGHT, WIDTH = 2, 3
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
    for row in grid.rows.slices:
        blended: list[Clip] = []
        for index, column in enumerate(grid.columns.slices):
            tile = run_tile(clip[:, :, row, column])
            if above:
                tile = blend(tile, above[index], grid.rows.blend_extent, HEIGHT)
            if blended:
                tile = blend(tile, blended[-1], grid.columns.blend_extent, WIDTH)
            blended.append(tile)
        kept = [tile[:, :, : grid.rows.limit, : grid.columns.limit] for tile in blended]
        rows.append(concatenate(kept, WIDTH))
        above = blended
    return concatenate(rows, HEIGHT)


def blend(tile: Clip, neighbour: Clip, extent: int, axis: int) -> Clip:
    """Fade from the neighbour's last `extent` cells into the tile's first ones along `axis`.

    Cell k of the tile weighs k / extent, the neighbour the rest (diffusers' `blend_v` and `blend_h`).
    """
    extent = min(tile.shape[axis], neighbour.shape[axis], extent)
    if extent == 0:
        return tile
    ramp_shape = [1] * tile.ndim
    ramp_shape[axis] = extent
    precise = jnp.promote_types(tile.dtype, jnp.float32)
    ramp = (jnp.arange(extent, dtype=precise) / extent).reshape(ramp_shape)
    size = neighbour.shape[axis]
    fading = jnp.take(neighbour, jnp.arange(size - extent, size), axis=axis)
    first = jnp.take(tile, jnp.arange(extent), axis=axis)
    mixed = fading * (1 - ramp) + first * ramp
    at_start = (slice(None),) * axis + (slice(0, extent),)
    return tile.at[at_start].set(mixed.astype(tile.dtype))
