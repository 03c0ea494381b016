"""Slabs: layers computed some rows (or columns) at a time, each with the cells beside it that its convolution sees.

What a slab is made from is made with it, so that no normalised activation exists in full.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float

from twinvae.forms import COLUMN_SLABS, ROW_SLABS, Form
from twinvae.jax.compiling import traced_for
from twinvae.jax.shards import in_rows

ROWS, COLUMNS = 2, 3
REPEATS = 8  # rows of the largest frames for each row of latents
HALO = 1  # cells on either side that a kernel of 3 sees
TILE = 8  # cells that a TPU fills up to
# The batch is that of whatever else a function takes; latents that condition frames have sizes of their own.
Frames = Float[Array, "b ... _c"]  # with or without time


class Slabs(NamedTuple):
    """How large slabs are, and along which axis frames are cut.

    Args:
        bytes: of the input of a slab's convolution.
        axis: ROWS; COLUMNS where rows are sharded, since a slab of rows would be on one device then.
    """

    bytes: int
    axis: int = ROWS

    @classmethod
    def of(cls, form: Form, bytes_: int) -> Slabs | None:
        """The slabs of a form; None where it has none."""
        axis = {ROW_SLABS: ROWS, COLUMN_SLABS: COLUMNS}.get(form)
        return None if axis is None else cls(bytes_, axis)

    def cells(self, shape: tuple[int, ...], itemsize: int) -> int:
        """Rows (or columns) of an array of `shape` that a slab holds; all of them where that is less than two slabs.

        As many belong to each of the slab's latents: latents repeat 1, 2, 4 or 8 times. Slabs are equal where that
        does not halve them, because a smaller last one is compiled apart.
        """
        size = shape[self.axis]
        cells = max(1, self.bytes * size // (prod(shape) * itemsize))
        if size < 2 * cells:
            return size
        if cells < REPEATS:
            return 1 << (cells.bit_length() - 1)
        most = cells // REPEATS * REPEATS
        return next((cells for cells in range(most, most // 2, -REPEATS) if size % cells == 0), most)


class Source(NamedTuple):
    """Frames that are made when they are asked for.

    Args:
        at: `at(first, cells, frames)` gives `cells` rows (or columns) from `first` on, of a slice of the frames.
    """

    shape: tuple[int, ...]
    dtype: jnp.dtype
    at: Callable[[Array | int, int, slice], Frames]

    def then(self, function: Callable[..., Frames], *args: object) -> Source:
        """These frames after a function of each cell."""
        return self._replace(at=lambda *where: function(self.at(*where), *args))


def cut(x: Array, first: Array | int, cells: int, axis: int) -> Array:
    """`cells` rows (or columns) of `x`; all of `x` where that is what it has."""
    return x if cells == x.shape[axis] else lax.dynamic_slice_in_dim(x, first, cells, axis)


def source_of(x: Frames, axis: int) -> Source:
    """Frames that exist already."""

    def at(first: Array | int, cells: int, frames: slice) -> Frames:
        # The frames of a slab are taken, not a slab of the frames, which would exist in full.
        slab = cut(x, first, cells, axis)[:, frames]
        return slab if axis == ROWS else axis_major(slab, axis)  # rows are outermost in any case

    return Source(x.shape, x.dtype, at)


def with_halo(
    at: Callable[[Array | int, int], Frames],
    first: Array | int,
    cells: int,
    size: int,
    axis: int,
    beyond: tuple[Array | int, Array | int] = (0, 0),
) -> Frames:
    """A slab and the cell on either side of it.

    Args:
        beyond: the cells on either side of all that there is: zero, as a convolution's padding is.
    """
    above, below = jnp.maximum(first - HALO, 0), jnp.minimum(first + cells, size - HALO)
    before = jnp.where(first > 0, at(above, HALO), beyond[0])
    after = jnp.where(first + cells < size, at(below, HALO), beyond[1])
    return jnp.concatenate([before, at(first, cells), after], axis)


def axis_major(x: Frames, axis: int) -> Frames:
    """`x` as it is, with the axis that it is cut along outermost of a frame's in memory, and channels last.

    Else a TPU's compiler lays frames out anew for every convolution, and both layouts exist in full; in a loop over
    columns, once for every slab.
    """
    *outer, rows, columns, channels = range(x.ndim)
    return with_layout_constraint(x, Layout(major_to_minor=(*outer, axis, rows + columns - axis, channels)))


def handed_on(cache: Frames) -> Frames:
    """A conv cache as programs for TPUs give it back where rows are shared: along rows or columns, in tiles of 8.

    Left as it was made, it is laid out anew at the end of the program, and lies there twice until then: of each of four
    v6e that share rows of 768x1360, 0.26 GB.
    """
    rows, columns = (-(-cache.shape[axis] // TILE) * TILE / cache.shape[axis] for axis in (ROWS, COLUMNS))
    if in_rows() is None or traced_for() != "tpu" or columns <= rows:
        return cache
    return axis_major(cache, COLUMNS)


def fill(out: Frames, size: int, cells: int, axis: int, run: Callable[[Array | int, int, Frames], Frames]) -> Frames:
    """Put every slab in its place.

    Args:
        out: what is overwritten; a slab of it may be one of several that a slab of input gives.
        size: rows (or columns) of the input.
        cells: of them, in a slab; the last slab holds what remains.
        run: `run(first, cells, there)` gives a slab; `there` is what `out` holds in its place.
    """
    scale = out.shape[axis] // size

    def put(first: Array | int, cells: int, out: Frames) -> Frames:
        there = cut(out, scale * first, scale * cells, axis)
        slab = axis_major(run(first, cells, there), axis)
        return lax.dynamic_update_slice_in_dim(out, slab, scale * first, axis)

    full, rest = divmod(size, cells)
    out = lax.fori_loop(0, full, lambda index, out: put(index * cells, cells, out), out)
    return put(full * cells, rest, out) if rest else out
