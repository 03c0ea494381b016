"""Tiled encode and decode against diffusers' own tiled loops, whole and as a stream, over every edge of a grid."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np
import pytest

import twinvae
from suites.tiling.bars import OFF, TILED
from twinvae.bench.bars import check_shapes, hold, measured
from twinvae.bench.halves import given_of

OPERATIONS = ("encode", "decode")


class Case(NamedTuple):
    """A tiling and the frames that it is put to.

    Args:
        tile: height and width in video pixels; 8 of them are one latent cell.
        overlap: of height and width.
        video: height and width in pixels of what is encoded.
        latents: height and width in cells of what is decoded; None leaves decoding out.
        frames: of what is encoded and of what is decoded; 3 are one frame batch of either.
        batches: frames per batch of the encoder and of the decoder.
    """

    tile: tuple[int, int]
    overlap: tuple[float, float]
    video: tuple[int, int]
    latents: tuple[int, int] | None
    items: int = 1
    frames: int = 3
    batches: tuple[int, int] = (8, 2)
    sliced: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """Capabilities, beside tiles."""
        return ("batches",) * (self.batches != (8, 2)) + ("slicing",) * self.sliced


# Most tiles are 3 cells by 2, the last ones 1 cell high or wide: few shapes, and so few programs to compile.
TILE, THIRD_AND_HALF = (24, 16), (1 / 3, 1 / 2)
CASES: dict[str, Case] = {
    "last tiles one cell high and wide": Case(TILE, THIRD_AND_HALF, (40, 24), (5, 3)),
    "five columns, four rows": Case(TILE, THIRD_AND_HALF, (56, 40), (7, 5)),
    "three frame batches": Case(TILE, THIRD_AND_HALF, (40, 24), (5, 3), frames=7, batches=(2, 2)),
    "equal tiles, three frame batches": Case(TILE, (0, 0), (48, 32), (6, 4), frames=7, batches=(2, 2)),
    "one row": Case(TILE, (0, 1 / 2), (24, 24), (3, 3)),
    "one column": Case(TILE, (1 / 3, 0), (40, 16), (5, 2)),
    "one row, one cell high": Case(TILE, THIRD_AND_HALF, (8, 24), (1, 3)),
    "one column, one cell wide": Case(TILE, THIRD_AND_HALF, (40, 8), (5, 1)),
    "tile as large as the frame": Case(TILE, THIRD_AND_HALF, (24, 16), (3, 2)),
    "tile larger than the frame": Case((240, 360), (1 / 6, 1 / 5), (24, 16), (3, 2)),
    "tile higher than the frame": Case((80, 16), THIRD_AND_HALF, (24, 24), (3, 3)),
    "tile wider than the frame": Case((24, 80), THIRD_AND_HALF, (40, 16), (5, 2)),
    "no overlap": Case(TILE, (0, 0), (32, 24), (4, 3)),
    "overlaps near 0, nothing blended": Case(TILE, (0.01, 0.05), (31, 23), (5, 3)),
    "overlaps near 0, one pixel blended": Case(TILE, (0.05, 0.1), (30, 22), (5, 3)),
    "overlap of two thirds, blends wider than the last tile": Case(TILE, (0.66, 0.5), (32, 24), (4, 3)),
    "overlap near 1 along height": Case((80, 16), (0.89, 0.5), (24, 24), (3, 3)),
    "overlap near 1 along width": Case((24, 80), (1 / 3, 0.89), (40, 16), (5, 2)),
    "fractions of a cell, rounded down": Case(TILE, (0.4, 0.2), (8, 20), (3, 2)),
    "other fractions of a cell, rounded down": Case(TILE, (0.3, 0.35), (40, 18), (5, 3)),
    "frame of odd size": Case(TILE, (1 / 3, 1 / 4), (29, 21), None),
    "tile no multiple of the compression": Case((30, 21), (0.3, 0.2), (40, 32), (5, 3)),
    "batch 2": Case(TILE, THIRD_AND_HALF, (8, 24), (1, 3), items=2),
    "batch 2, sliced": Case(TILE, THIRD_AND_HALF, (40, 24), (5, 3), items=2, sliced=True),
}
GRID = [
    pytest.param(case, operation, id=f"{case}-{operation}", marks=pytest.mark.needs(*spec.needs))
    for operation in OPERATIONS
    for case, spec in CASES.items()
    if (spec.video if operation == "encode" else spec.latents)
]
# Of equal tiles, one that takes another's conv cache is no error of shapes.
STREAMED = (
    "three frame batches",
    "equal tiles, three frame batches",
    "overlap of two thirds, blends wider than the last tile",
    "batch 2",
)
RESUMED = "three frame batches"

pytestmark = [pytest.mark.needs("tiling"), pytest.mark.only(once=True, large=False)]


@pytest.mark.parametrize(("case", "operation"), GRID)
def test_tiled_results_are_those_of_diffusers(case, operation, vae, reference, model, dtype, once, record, options):
    clip = drawn(vae, case, operation, options.seed)
    expected = once((__name__, model.label, dtype, case, operation), lambda: tiled(reference, case, operation, clip))
    found = tiled(vae, case, operation, clip)
    expected = given_of(vae, operation, expected)
    check_shapes({"tiled": found}, {"tiled": expected})
    bars, size = TILED[dtype], "x".join(map(str, clip.shape[2:4]))
    hold(record, bars, measured(bars, {"tiled": found}, {"tiled": expected}), case, operation=operation,
                shape=size)  # fmt: skip
    off = rows_and_columns_off(found, clip, vae.config.spatial_compression, operation)
    unit = "cells" if operation == "encode" else "px"
    bars = {"rows and columns off": OFF["rows and columns off"]._replace(unit=unit)}
    hold(record, bars, {"rows and columns off": off}, case, operation=operation, shape=size)


@pytest.mark.needs("stream", "batches")
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("case", STREAMED)
def test_a_tiled_stream_gives_the_bits_of_the_whole(case, operation, vae, options):
    clip = drawn(vae, case, operation, options.seed)
    whole = tiled(vae, case, operation, clip)
    assert np.array_equal(np.concatenate(list(stream(vae, operation, clip)), axis=1), whole)


@pytest.mark.needs("stream", "house")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_tiled_stream_goes_on_from_its_conv_cache(operation, vae, options):
    clip = drawn(vae, RESUMED, operation, options.seed)
    whole = tiled(vae, RESUMED, operation, clip)
    cut = vae.schedule(operation, clip.shape[1])[0].stop  # where devices share time, other groups round otherwise
    begun = stream(vae, operation, clip[:, :cut])
    chunks = [*begun, *stream(vae, operation, clip[:, cut:], begun.cache)]
    assert np.array_equal(np.concatenate(chunks, axis=1), whole)


def drawn(vae: twinvae.VideoVAE, case: str, operation: str, seed: int) -> np.ndarray:
    """Noise in [-1, 1], which no tile finds anything alike in."""
    spec, config = CASES[case], vae.config
    size = (*spec.video, config.in_channels) if operation == "encode" else (*spec.latents, config.latent_channels)
    rng = np.random.default_rng([zlib.crc32(case.encode()), seed])
    return rng.uniform(-1, 1, (spec.items, spec.frames, *size))


def tiled(vae: twinvae.VideoVAE, case: str, operation: str, clip: np.ndarray) -> np.ndarray:
    """The moments or the video that a clip becomes in the tiles of a case, which stay set."""
    spec = CASES[case]
    vae.enable_tiling(*spec.tile, *spec.overlap)
    vae.use_slicing = spec.sliced
    vae.num_sample_frames_batch_size, vae.num_latent_frames_batch_size = spec.batches
    return np.asarray(vae.encode(clip).moments if operation == "encode" else vae.decode(clip))


def stream(vae: twinvae.VideoVAE, operation: str, clip: np.ndarray, cache=None) -> twinvae.FrameStream:
    return getattr(vae, f"{operation}_stream")(clip, cache)


def rows_and_columns_off(found: np.ndarray, clip: np.ndarray, compression: int, operation: str) -> int:
    """By how many rows and columns diffusers' rounding makes a tiled result larger or smaller than an untiled one."""
    scale = 1 / compression if operation == "encode" else compression
    return sum(abs(have - int(size * scale)) for have, size in zip(found.shape[2:4], clip.shape[2:4], strict=True))
