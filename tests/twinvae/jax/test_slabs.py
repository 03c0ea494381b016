"""Slabs: how many rows or columns they hold, and that every one is put in its place."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from twinvae.forms import COLUMN_SLABS, ROW_SLABS, WHOLE
from twinvae.jax.compiling import tracing_for
from twinvae.jax.shards import Shard, holding
from twinvae.jax.slabs import COLUMNS, REPEATS, ROWS, Slabs, cut, fill, handed_on, source_of, with_halo


@pytest.mark.parametrize(
    ("size", "rows_of", "cells"),
    [
        (48, 1, 1),
        (48, 3, 2),  # a power of 2 below 8
        (48, 7, 4),
        (48, 8, 8),
        (48, 15, 8),
        (48, 17, 16),
        (48, 24, 24),
        (48, 25, 48),  # less than two slabs: all
        (80, 24, 16),  # 24 would leave 8: equal ones, as 16 is more than half of 24
        (72, 32, 24),
        (88, 32, 32),  # no multiple of 8 between half of it and all of it divides 88
        (50, 10, 8),
    ],
)
@pytest.mark.parametrize("axis", [ROWS, COLUMNS])
def test_slabs_hold_as_many_cells_as_their_bytes_allow_and_are_equal_where_possible(size, rows_of, cells, axis):
    shape = [2, 3, 5, 5, 7]
    shape[axis] = size
    row = 4 * np.prod(shape) // size
    slabs = Slabs(int(rows_of * row + row // 2), axis)
    assert slabs.cells(tuple(shape), 4) == cells
    assert cells in (1, 2, 4, size) or cells % REPEATS == 0


def test_a_form_has_its_axis_and_whole_frames_have_none():
    assert Slabs.of(ROW_SLABS, 9) == Slabs(9, ROWS)
    assert Slabs.of(COLUMN_SLABS, 9) == Slabs(9, COLUMNS)
    assert Slabs.of(WHOLE, 9) is None


@pytest.mark.parametrize("axis", [ROWS, COLUMNS])
@pytest.mark.parametrize(("size", "cells"), [(6, 2), (7, 3), (5, 5)])
def test_every_slab_is_put_in_its_place_with_what_lies_there(size, cells, axis):
    shape = [1, 2, 4, 4, 3]
    shape[axis] = size
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape))
    doubled = jnp.repeat(x, 2, axis)
    source = source_of(x, axis)

    def run(first, count, there):
        return there + jnp.repeat(source.at(first, count, slice(0, 2)), 2, axis)

    found = fill(10 * doubled, size, cells, axis, run)
    np.testing.assert_array_equal(found, 10 * doubled + doubled)


@pytest.mark.parametrize("axis", [ROWS, COLUMNS])
@pytest.mark.parametrize(("first", "cells"), [(0, 2), (2, 2), (4, 1), (0, 5)])
def test_a_slab_has_its_neighbours_beside_it_and_zeros_beyond_the_frame(first, cells, axis):
    shape = [1, 2, 4, 4, 3]
    shape[axis] = 5
    x = jnp.asarray(np.random.default_rng(0).normal(size=shape))
    padded = jnp.pad(x, [(1, 1) if one == axis else (0, 0) for one in range(5)])
    found = with_halo(lambda first, cells: cut(x, first, cells, axis), first, cells, 5, axis)
    np.testing.assert_array_equal(found, cut(padded, first, cells + 2, axis))


@pytest.mark.parametrize(
    ("size", "platform", "parts", "laid_out"),
    [
        ((24, 170), "tpu", 4, ["(0, 1, 3, 2, 4)"]),
        ((25, 170), "tpu", 4, []),  # rows would fill up more
        ((96, 680), "tpu", 4, []),  # nothing fills up
        ((24, 170), "tpu", 1, []),
        ((24, 170), "gpu", 4, []),
    ],
)
def test_a_conv_cache_lies_as_a_tpu_hands_it_on_where_rows_are_shared(size, platform, parts, laid_out):
    cache = jax.ShapeDtypeStruct((1, 2, *size, 16), "bfloat16")
    shard = Shard(1, True, (), parts, parts * size[0], size[0])
    with tracing_for(platform), holding(shard):
        found = jax.make_jaxpr(lambda cache: handed_on(cache))(cache).eqns  # one that was not traced before
    assert [str(one.params["layout"].major_to_minor) for one in found] == laid_out
