"""Which programs a clip goes through, and what lives beside them while they run: plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from suites.memory.cases import Case
from twinvae.arrays import DTYPES
from twinvae.checkpoint import tensor_shapes
from twinvae.config import VAEConfig
from twinvae.frames import decoded_frames, encoded_frames, frame_batches, latent_count
from twinvae.tiles import TileGrid, TileSettings

BATCH = {"encode": 8, "decode": 2}  # frames, and latents, that go through together


class Piece(NamedTuple):
    """A program: the whole clip, or one frame batch of it, the first or one that goes on from a conv cache.

    Args:
        shape: of its input, [b, t, h, w, c].
        beside: bytes that live while it runs, and are none of its arguments, results or temporaries.
    """

    kind: Literal["whole", "first", "later"]
    shape: tuple[int, ...]
    beside: int = 0


def pieces(case: Case, config: VAEConfig, dtype: str) -> tuple[Piece, ...]:
    """The largest programs that a case goes through, with what lives beside each at the worst.

    Streamed, that is the clip's input and the output that has been made, which stay on the device. Tiled, it is the
    finished tiles of two rows as well: those above, and those on the left.
    """
    shape = input_shape(case, config)
    if case.form == "one program":
        return (Piece("whole", shape),)
    batches = [batch.stop - batch.start for batch in frame_batches(shape[1], BATCH[case.operation])]
    size = DTYPES[dtype].itemsize
    grid = _grid(case, config) if case.form == "tiled" else None
    rows, columns = (_longest(axis.slices) for axis in grid) if grid else shape[2:4]
    tile = (shape[0], shape[1], rows, columns, shape[4])
    held = _finished_tiles(case, config, grid, tile, batches) if grid else 0
    found = []
    for index, kind in enumerate(("first", "later")[: len(batches)]):
        piece = (shape[0], batches[index], rows, columns, shape[4])
        own = _output_cells(case, config, [batches[index]], rows, columns)
        made = 0 if grid is None and kind == "first" else _output_cells(case, config, batches, rows, columns) - own
        beside = math.prod(shape) - math.prod(piece) + held + made
        found.append(Piece(kind, piece, beside * size))
    return tuple(found)


def peak(found: Sequence[Piece], peak_of: Callable[[Piece], int]) -> int:
    """The most memory in use at any time, from the peaks of programs."""
    return max(peak_of(piece) + piece.beside for piece in found)


def input_shape(case: Case, config: VAEConfig) -> tuple[int, ...]:
    """Of a case's video, or of the latents that it has."""
    if case.operation == "encode":
        return 1, case.frames, case.height, case.width, config.in_channels
    latents = latent_count(case.frames, BATCH["encode"], config.temporal_levels)
    cells = config.spatial_compression
    return 1, latents, case.height // cells, case.width // cells, config.latent_channels


def weight_bytes(config: VAEConfig, operation: str, dtype: str) -> int:
    """Of an encoder or a decoder."""
    own = [shape for name, shape in tensor_shapes(config).items() if name.startswith(operation)]
    return sum(map(math.prod, own)) * DTYPES[dtype].itemsize


def _grid(case: Case, config: VAEConfig) -> TileGrid | None:
    settings, (height, width) = TileSettings.of(config), input_shape(case, config)[2:4]
    if not settings.needs_tiles(case.operation, height, width, config.spatial_compression):
        return None
    return settings.grid(case.operation, height, width, config.spatial_compression)


def _longest(slices: Sequence[slice]) -> int:
    return max(part.stop - part.start for part in slices)


def _finished_tiles(
    case: Case, config: VAEConfig, grid: TileGrid, tile: tuple[int, ...], batches: Sequence[int]
) -> int:
    """Numbers of output that lie in the rows joined so far, in the row of tiles above, and in those on the left."""
    _, _, rows, columns, _ = tile
    done, across = len(grid.rows.slices) - 1, len(grid.columns.slices)
    one = _output_cells(case, config, batches, rows, columns)
    joined = done * grid.rows.limit / _scaled(1, case, config)
    frame_columns = input_shape(case, config)[3]
    rows_joined = _output_cells(case, config, batches, 1, frame_columns) * joined
    return int(rows_joined) + one * (across * min(done, 1) + across - 1)


def _output_cells(case: Case, config: VAEConfig, batches: Sequence[int], rows: int, columns: int) -> int:
    """Numbers of output that come from frame batches of these lengths, and frames of these many input rows."""
    encode = case.operation == "encode"
    through = encoded_frames if encode else decoded_frames
    channels = 2 * config.latent_channels if encode else config.out_channels
    frames = sum(through(length, config.temporal_levels) for length in batches)
    return int(frames * _scaled(rows, case, config) * _scaled(columns, case, config) * channels)


def _scaled(cells: int, case: Case, config: VAEConfig) -> float:
    """Output rows or columns of so many input ones."""
    return cells / config.spatial_compression if case.operation == "encode" else cells * config.spatial_compression
