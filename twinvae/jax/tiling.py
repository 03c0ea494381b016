"""A tile blended with its neighbour."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Clip = Float[Array, "b t h w c"]


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
