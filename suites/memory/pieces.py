"""Which programs a clip goes through, by the product's own planner, and what lives beside them: plain numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from suites.memory.cases import Case
from twinvae.arrays import DTYPES
from twinvae.config import VAEConfig
from twinvae.forms import WHOLE, Form
from twinvae.frames import DECODED_TOGETHER, ENCODED_TOGETHER, latent_count
from twinvae.jax.planner import Call, steps
from twinvae.tensors import tensor_shapes
from twinvae.tiles import TileSettings

TOGETHER = {"encode": ENCODED_TOGETHER, "decode": DECODED_TOGETHER}


class Piece(NamedTuple):
    """A program: the whole clip, or one frame batch of it: the first, one that goes on from a conv cache, or the
    only one.

    Args:
        shape: of its input, [b, t, h, w, c].
        beside: bytes that live while it runs, and are none of its arguments, results or temporaries.
        form: of a frame batch; None: the leanest.
    """

    kind: Literal["whole", "first", "later", "alone"]
    shape: tuple[int, ...]
    beside: int = 0
    form: Form | None = None


def pieces(case: Case, config: VAEConfig, dtype: str) -> tuple[Piece, ...]:
    """The largest programs that a case goes through, with what lives beside each at the worst."""
    call = call_of(case, config)
    if case.way == "one program":
        return (Piece("whole", call.shape),)
    found = steps(config, call, DTYPES[dtype].itemsize)
    slabs = case.form not in (None, WHOLE)  # which keep no conv cache that nobody needs
    kinds = ["alone" if step.alone and slabs else "first" if step.first else "later" for step in found]
    return tuple(Piece(kind, step.shape, step.beside, case.form) for kind, step in zip(kinds, found, strict=True))


def call_of(case: Case, config: VAEConfig) -> Call:
    """A case as the planner knows it, in the default frame batches and tiles; what comes out stays in its parts."""
    shape = input_shape(case, config)
    settings, cells = TileSettings.of(config), config.spatial_compression
    tiled = case.way == "tiled" and settings.needs_tiles(case.operation, *shape[2:4], cells)
    grid = settings.grid(case.operation, *shape[2:4], cells) if tiled else None
    return Call(case.operation, shape, TOGETHER[case.operation], grid, streamed=True)


def peak(found: Sequence[Piece], peak_of: Callable[[Piece], int]) -> int:
    """The most memory in use at any time, from the peaks of programs."""
    return max(peak_of(piece) + piece.beside for piece in found)


def input_shape(case: Case, config: VAEConfig) -> tuple[int, ...]:
    """Of a case's video, or of the latents that it has."""
    if case.operation == "encode":
        return 1, case.frames, case.height, case.width, config.in_channels
    latents = latent_count(case.frames, ENCODED_TOGETHER, config.temporal_levels)
    cells = config.spatial_compression
    return 1, latents, case.height // cells, case.width // cells, config.latent_channels


def weight_bytes(config: VAEConfig, operation: str, dtype: str) -> int:
    """Of an encoder or a decoder."""
    own = [shape for name, shape in tensor_shapes(config).items() if name.startswith(operation)]
    return sum(map(math.prod, own)) * DTYPES[dtype].itemsize
