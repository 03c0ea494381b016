"""Which part of a frame is shown of its seams."""

from __future__ import annotations

import numpy as np

from suites.tiling.seams import crop_at
from twinvae.tiles import TileSettings


def test_a_crop_lies_around_the_crossing_where_tiles_show_most_and_inside_of_the_frame():
    grid = TileSettings(16, 16, 0, 0).grid("decode", 4, 6, 8)  # seams at row 16, and at columns 16 and 32
    difference = np.zeros((1, 2, 32, 48, 3))
    difference[:, :, 14:18, 30:34] = 0.1
    assert crop_at(difference, grid, 12) == (slice(10, 22), slice(26, 38))
    rows, columns = crop_at(difference, grid, 32)
    assert (rows, columns) == (slice(0, 32), slice(16, 48))
