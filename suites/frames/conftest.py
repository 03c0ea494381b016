"""What the tests of frames share: a clip and latents long enough for every count, and diffusers to compare with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from suites.frames.bars import OF_DIFFUSERS
from twinvae.bench.bars import check_shapes, hold, measured, precise
from twinvae.bench.halves import Clip, Operation, given_of, whole
from twinvae.registry import REFERENCE

LONGEST = 81  # frames; 21 latents


@pytest.fixture
def clips(clip, load, model, once) -> dict[Operation, Clip]:
    """What is encoded, and what is decoded: the latents that the reference makes of it.

    Two latent cells are enough: what this suite asks of a network is along time.
    """

    def make() -> dict[Operation, Clip]:
        video = clip(LONGEST, model.config.spatial_compression, 2 * model.config.spatial_compression)
        return {"encode": video, "decode": load(REFERENCE, model, "eager", "float64").encode(video).mode()}

    return once((__name__, model.label), make)


@pytest.fixture
def of_diffusers(load, model, once) -> Callable[[Operation, Clip, int, str], Clip]:
    """`of_diffusers(operation, clip, size, dtype)`: what the reference gives, kept by the clip's shape.

    It is the same for every backend, and the clips of one shape are the same ones.
    """

    def run(operation: Operation, clip: Clip, size: int, dtype: str) -> Clip:
        vae = load(REFERENCE, model, "eager", dtype)
        return once(
            (__name__, model.label, operation, clip.shape, size, dtype), lambda: whole(vae, operation, clip, size)
        )

    return run


@pytest.fixture
def compare(vae, of_diffusers, dtype, record) -> Callable[[Operation, Clip, int, str], None]:
    """`compare(operation, clip, size, case)`: record how far the VAE is from diffusers, and fail past the limit."""

    def compare(operation: Operation, clip: Clip, size: int, case: str) -> None:
        sides = (
            whole(vae, operation, clip, size),
            given_of(vae, operation, of_diffusers(operation, clip, size, precise(dtype))),
            given_of(vae, operation, of_diffusers(operation, clip, size, dtype)),
        )
        found, expected, in_torch = ({"output": side} for side in sides)
        check_shapes(found, expected)
        bars = OF_DIFFUSERS[dtype]
        hold(record, bars, measured(bars, found, expected, in_torch), case, operation=operation)

    return compare
