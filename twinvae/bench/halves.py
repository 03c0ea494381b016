"""Runs of half a VAE: whole or as a stream, with a frame batch size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from twinvae import ConvCache, FrameStream, VideoVAE
from twinvae.frames import decoded_frames, encoded_frames, frame_batches

Operation = Literal["encode", "decode"]
Clip = Float[np.ndarray, "b t h w c"]

BATCH_SIZE = {"encode": "num_sample_frames_batch_size", "decode": "num_latent_frames_batch_size"}
FRAMES_OUT = {"encode": encoded_frames, "decode": decoded_frames}


@contextmanager
def batched(vae: VideoVAE, operation: Operation, size: int) -> Iterator[None]:
    """A frame batch size, for as long as the block runs."""
    before = getattr(vae, BATCH_SIZE[operation])
    setattr(vae, BATCH_SIZE[operation], size)
    try:
        yield
    finally:
        setattr(vae, BATCH_SIZE[operation], before)


def whole(vae: VideoVAE, operation: Operation, clip: Clip, size: int) -> Clip:
    """The moments of a video, or the video of latents, in one call."""
    with batched(vae, operation, size):
        given: Any = clip
        return np.asarray(vae.encode(given).moments if operation == "encode" else vae.decode(given))


def given_of(vae: VideoVAE, operation: Operation, expected: Clip) -> Clip:
    """What of the reference's output a VAE gives as well: of one without a log-variance, the mean."""
    if operation == "decode" or "moments" in vae.capabilities:
        return expected
    return expected[..., : vae.config.latent_channels]


def fitting(vae: VideoVAE, items: int, height: int, width: int) -> tuple[int, int, int]:
    """The nearest of what a VAE takes: a port may take one clip at a time, and sides of some multiple alone."""
    ways = getattr(vae, "ways", None)
    if ways is None:
        return items, height, width
    up = (-(-side // ways.sizes) * ways.sizes for side in (height, width))
    return (min(items, ways.items or items), *up)


def stream(vae: VideoVAE, operation: Operation, clip: Clip, cache: ConvCache | None = None) -> FrameStream:
    return getattr(vae, f"{operation}_stream")(clip, cache)


def label(operation: Operation, count: int, size: int) -> str:
    """How a case is called in records."""
    noun = "frame" if operation == "encode" else "latent"
    return f"{count} {noun}{'s' if count > 1 else ''}, {size} at a time"


def output_batches(vae: VideoVAE, operation: Operation, frames: int, size: int) -> list[int]:
    """How many frames come out of each frame batch."""
    levels = vae.config.temporal_levels
    return [FRAMES_OUT[operation](part.stop - part.start, levels) for part in frame_batches(frames, size)]


def differing(found: Any, expected: Any) -> int:
    """How many values differ in any bit."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    bits = f"u{found.itemsize}"
    return int(np.count_nonzero(found.view(bits) != expected.view(bits)))
