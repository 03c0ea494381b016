"""Means and variances of channels in one pass over memory, for GPUs, whose reductions take as long as reading does."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

SPARSE = 8  # every so many rows are read twice


def channel_moments(
    x: Float[Array, "b *t h w c"],
) -> tuple[Float[Array, "b c"], Float[Array, "b c"]]:
    """Each channel's mean and variance over frames and cells.

    Args:
        x: in the precision that sums are kept in.

    Squares are added up of differences to the mean of every 8th row, so that no digit is lost to a large mean. That is
    at most sqrt(7) standard deviations off, whatever the frames: a share f of cells is at most sqrt((1 - f) / f) off.
    So a sum of squares is at most 8 times what is left of it, and three bits of float32 are the most that it can lose.
    """
    space = tuple(range(1, x.ndim - 1))
    middle = x[..., ::SPARSE, :, :].mean(space, keepdims=True)
    off = x - middle
    mean = off.mean(space)
    return middle.reshape(mean.shape) + mean, jnp.square(off).mean(space) - jnp.square(mean)
