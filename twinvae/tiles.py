"""The tile grid, overlaps and blend extents, as plain numbers; and a function run over the tiles of a clip."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Any, Literal, NamedTuple

from jaxtyping import Float

from twinvae.arrays import is_jax
from twinvae.config import VAEConfig

Operation = Literal["encode", "decode"]
HEIGHT, WIDTH = 2, 3  # axes of a clip
LONG_GRID = 16  # tiles from which on a terminal shows how far a grid has come
Clip = Float[Any, "b t h w c"]


class Axis(NamedTuple):
    """Tiling along one axis: input slices, then how the outputs are blended and cropped (output cells)."""

    slices: tuple[slice, ...]
    blend_extent: int
    limit: int


class TileGrid(NamedTuple):
    rows: Axis
    columns: Axis


def tile_shapes(grid: TileGrid) -> list[tuple[int, int]]:
    """Height and width of every tile, on the input side, row by row."""
    return [
        (row.stop - row.start, column.stop - column.start) for row in grid.rows.slices for column in grid.columns.slices
    ]


@dataclass
class TileSettings:
    """Tile sizes in video pixels and overlaps as fractions, with diffusers' names, defaults and rounding.

    diffusers rounds both sides of the network on their own: a tile size that is no multiple of the compression loses
    its remainder on the latent side, strides are rounded down on the input side and blend extents on the output side.
    Where the two disagree, tiles are joined at other places than they were taken from, and the frame comes out larger
    or smaller. They agree when tiles are whole latent cells and overlaps whole cells of them: 240 pixels (30 cells)
    with 1/6 (5 cells), but not 32 pixels (4 cells) with 1/6.

    Args:
        tile_latent_min_height, tile_latent_min_width: cells of a tile of latents; None for what the sample's come to.
    """

    tile_sample_min_height: int
    tile_sample_min_width: int
    tile_overlap_factor_height: float = 1 / 6
    tile_overlap_factor_width: float = 1 / 5
    tile_latent_min_height: int | None = None
    tile_latent_min_width: int | None = None

    @classmethod
    def of(cls, config: VAEConfig) -> TileSettings:
        """diffusers' defaults: half the sample size that the config names."""
        return cls(config.sample_height // 2, config.sample_width // 2)

    def cells(self, compression: int) -> tuple[int, int]:
        """Height and width of a tile of latents."""
        height, width = self.tile_latent_min_height, self.tile_latent_min_width
        return (
            self.tile_sample_min_height // compression if height is None else height,
            self.tile_sample_min_width // compression if width is None else width,
        )

    def in_cells(self, compression: int) -> TileSettings:
        """The same with tiles of latents filled in."""
        height, width = self.cells(compression)
        return replace(self, tile_latent_min_height=height, tile_latent_min_width=width)

    def needs_tiles(self, operation: Operation, height: int, width: int, compression: int) -> bool:
        """Whether a frame (video pixels to encode, latent cells to decode) is larger than one tile."""
        of_video = self.tile_sample_min_height, self.tile_sample_min_width
        rows, columns = of_video if operation == "encode" else self.cells(compression)
        return width > columns or height > rows

    def grid(self, operation: Operation, height: int, width: int, compression: int) -> TileGrid:
        """The tiles of a frame of `height` x `width` (video pixels to encode, latent cells to decode).

        Raises:
            ValueError: an overlap outside [0, 1), a tile below one latent cell or with no room beside its overlap,
                or a last tile that the encoder cannot take; the message names a tile size that works.
        """
        rows, columns = self.cells(compression)
        return TileGrid(
            _axis("height", operation, height, self.tile_sample_min_height, rows,
                  self.tile_overlap_factor_height, compression),
            _axis("width", operation, width, self.tile_sample_min_width, columns,
                  self.tile_overlap_factor_width, compression),
        )  # fmt: skip


TILE_SETTINGS = tuple(field.name for field in fields(TileSettings))


def checked_setting(name: str, value: Any) -> Any:
    """A value for one of `TILE_SETTINGS`; whether tiles can be made of it shows when a grid is.

    Raises:
        ValueError: no number, or a size that is not whole.
    """
    if name.startswith("tile_overlap"):
        if not isinstance(value, Real):
            raise ValueError(f"{name} is {value!r}: it must be a number, at least 0 and below 1")
    elif not isinstance(value, Integral):
        unit = "latent cells" if name.startswith("tile_latent") else "pixels"
        raise ValueError(f"{name} is {value!r}: it must be a whole number of {unit}")
    return value


def _axis(name: str, operation: Operation, size: int, tile: int, cells: int, overlap: float, compression: int) -> Axis:
    """diffusers' `tiled_encode` and `tiled_decode`: strides from the input side, extents from the output side."""
    if not 0 <= overlap < 1:
        raise ValueError(f"tile_overlap_factor_{name} is {overlap}: it must be at least 0 and below 1")
    if tile < compression:
        raise ValueError(
            f"tile_sample_min_{name} is {tile}: a tile must hold at least one latent cell, {compression} pixels"
        )
    into, out_of = (tile, cells) if operation == "encode" else (cells, tile)
    stride = int(into * (1 - overlap))
    extent = int(out_of * overlap)
    if stride < 1 or extent >= out_of:
        raise ValueError(
            f"tile_sample_min_{name} {tile} with tile_overlap_factor_{name} {overlap} leaves no room between tiles, of "
            f"latents {cells} cells: use larger tiles or a smaller overlap"
        )
    starts = range(0, size, stride)
    slices = tuple(slice(start, min(start + into, size)) for start in starts)
    sliver = min(part.stop - part.start for part in slices)
    if operation == "encode" and sliver < compression:
        hint = _working_tile(size, tile, overlap, compression)
        raise ValueError(
            f"the last tile along {name} is {sliver} pixels of {size}, and the encoder needs at least {compression}: "
            f"set tile_sample_min_{name} to {hint}"
        )
    return Axis(slices, extent, out_of - extent)


def _working_tile(size: int, tile: int, overlap: float, compression: int) -> int:
    """The nearest larger multiple of the compression whose last tile is no sliver."""
    candidate = (tile // compression + 1) * compression
    while True:
        stride = int(candidate * (1 - overlap))
        if stride >= size or (stride >= 1 and (size - 1) % stride + 1 >= compression):
            return candidate
        candidate += compression


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
            if is_jax(tile):
                tile.block_until_ready()  # else what is shown is how fast tiles are queued
            progress.advance(task)

        yield done
