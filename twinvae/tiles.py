"""The tile grid, overlaps and blend extents, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Literal, NamedTuple

from twinvae.config import VAEConfig

Operation = Literal["encode", "decode"]


class Axis(NamedTuple):
    """Tiling along one axis: input slices, then how the outputs are blended and cropped (output cells)."""

    slices: tuple[slice, ...]
    blend_extent: int
    limit: int


class TileGrid(NamedTuple):
    rows: Axis
    columns: Axis


@dataclass
class TileSettings:
    """Tile sizes in video pixels and overlaps as fractions, with diffusers' names, defaults and rounding.

    diffusers rounds both sides of the network on their own: a tile size that is no multiple of the compression loses
    its remainder on the latent side, strides are rounded down on the input side and blend extents on the output side.
    Where the two disagree, tiles are joined at other places than they were taken from, and the frame comes out larger
    or smaller. They agree when tiles are whole latent cells and overlaps whole cells of them: 240 pixels (30 cells)
    with 1/6 (5 cells), but not 32 pixels (4 cells) with 1/6.
    """

    tile_sample_min_height: int
    tile_sample_min_width: int
    tile_overlap_factor_height: float = 1 / 6
    tile_overlap_factor_width: float = 1 / 5

    @classmethod
    def of(cls, config: VAEConfig) -> TileSettings:
        """diffusers' defaults: half the sample size that the config names."""
        return cls(config.sample_height // 2, config.sample_width // 2)

    def needs_tiles(self, operation: Operation, height: int, width: int, compression: int) -> bool:
        """Whether a frame (video pixels to encode, latent cells to decode) is larger than one tile."""
        scale = compression if operation == "decode" else 1
        return width > self.tile_sample_min_width // scale or height > self.tile_sample_min_height // scale

    def grid(self, operation: Operation, height: int, width: int, compression: int) -> TileGrid:
        """The tiles of a frame of `height` x `width` (video pixels to encode, latent cells to decode).

        Raises:
            ValueError: an overlap outside [0, 1), a tile below one latent cell or with no room beside its overlap,
                or a last tile that the encoder cannot take; the message names a tile size that works.
        """
        return TileGrid(
            _axis("height", operation, height, self.tile_sample_min_height,
                  self.tile_overlap_factor_height, compression),
            _axis("width", operation, width, self.tile_sample_min_width,
                  self.tile_overlap_factor_width, compression),
        )  # fmt: skip


def _axis(name: str, operation: Operation, size: int, tile: int, overlap: float, compression: int) -> Axis:
    """diffusers' `tiled_encode` and `tiled_decode`: strides from the input side, extents from the output side."""
    if not 0 <= overlap < 1:
        raise ValueError(f"tile_overlap_factor_{name} is {overlap}: it must be at least 0 and below 1")
    if not isinstance(tile, Integral):
        raise ValueError(f"tile_sample_min_{name} is {tile!r}: it must be a whole number of pixels")
    if tile < compression:
        raise ValueError(
            f"tile_sample_min_{name} is {tile}: a tile must hold at least one latent cell, {compression} pixels"
        )
    cells = tile // compression
    into, out_of = (tile, cells) if operation == "encode" else (cells, tile)
    stride = int(into * (1 - overlap))
    extent = int(out_of * overlap)
    if stride < 1 or extent >= out_of:
        raise ValueError(
            f"tile_sample_min_{name} {tile} with tile_overlap_factor_{name} {overlap} leaves no room between tiles: "
            "use larger tiles or a smaller overlap"
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
