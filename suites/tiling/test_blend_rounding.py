"""A blend in bfloat16: weights and sums are more precise than what they blend, and are rounded once."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from twinvae.tiles import HEIGHT, WIDTH

EXTENTS = (3, 7, 40)  # most weights are no numbers of bfloat16
TILE = 48
BITS = 8  # of a bfloat16's significand

pytestmark = [pytest.mark.needs("tiling", "step"), pytest.mark.only(mode=("jit",), dtype=("bfloat16",), large=False)]


@pytest.mark.parametrize("axis", [HEIGHT, WIDTH])
@pytest.mark.parametrize("extent", EXTENTS)
def test_a_blend_in_bfloat16_is_the_exact_one_rounded_once(extent, axis, vae):
    rng = np.random.default_rng(extent)
    tile, neighbour = rng.normal(size=(2, 2, 3, TILE, TILE, 4)).astype(ml_dtypes.bfloat16)
    given = [vae.concatenate([clip], axis=0) for clip in (tile, neighbour)]
    found = np.asarray(vae.blend(*given, extent, axis))
    assert found.dtype == ml_dtypes.bfloat16

    shape = [1] * tile.ndim
    shape[axis] = extent
    weight = (np.arange(extent) / extent).reshape(shape)
    first, fading = (np.take(clip.astype(float), range(*cells), axis)
                     for clip, cells in ((tile, (0, extent)), (neighbour, (TILE - extent, TILE))))  # fmt: skip
    exact = fading * (1 - weight) + first * weight
    half_a_step = 2.0 ** (np.floor(np.log2(np.abs(exact))) + 1 - BITS) / 2
    in_float32 = 2.0**-22 * (np.abs(first) + np.abs(fading))
    off = np.abs(np.take(found.astype(float), range(extent), axis) - exact)
    assert np.all(off <= half_a_step + in_float32)
    np.testing.assert_array_equal(np.take(found, range(extent, TILE), axis), np.take(tile, range(extent, TILE), axis))
