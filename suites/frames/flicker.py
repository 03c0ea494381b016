"""Flicker: what changes from frame to frame and does not in the original. Pure functions of clips [1, t, h, w, c]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Video = Float[np.ndarray, "1 t h w c"]


def flicker(found: Video, original: Video) -> Float[np.ndarray, " n"]:
    """Of each frame but the first, how far its step from the frame before is from the original's, in the mean."""
    error = found.astype(np.float64) - original
    return np.abs(np.diff(error, axis=1)).mean(axis=(0, 2, 3, 4))


def at_edges(flickers: Float[np.ndarray, " n"], edges: Sequence[int]) -> float:
    """The mean where a frame batch begins over that elsewhere; 1 where batches show no more than any other frame.

    Args:
        edges: frames, counted from 0, that begin a frame batch.
    """
    begins = np.isin(np.arange(1, len(flickers) + 1), edges)
    return float(flickers[begins].mean() / flickers[~begins].mean())


def quality(found: Video, original: Video) -> Float[np.ndarray, " t"]:
    """PSNR of each frame in dB."""
    return 10 * np.log10(4 / np.square(found.astype(np.float64) - original).mean(axis=(0, 2, 3, 4)))
