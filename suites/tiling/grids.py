"""What a grid of tiles comes to: pure functions of it."""

from __future__ import annotations

from twinvae.tiles import TileGrid


def tile_shapes(grid: TileGrid) -> list[tuple[int, int]]:
    """Height and width of every tile, on the input side."""
    return [
        (row.stop - row.start, column.stop - column.start) for row in grid.rows.slices for column in grid.columns.slices
    ]
