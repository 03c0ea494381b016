"""The order of a clip's axes in a port, as letters ("bcthw"), and how it is told from a shape."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

CHANNEL_LAST = "bthwc"
LAYOUTS = (CHANNEL_LAST, "bcthw", "btchw", "thwc", "cthw", "tchw")


def checked_layout(given: object) -> str:
    """A layout as it was declared.

    Raises:
        ValueError: not one of LAYOUTS.
    """
    if given not in LAYOUTS:
        raise ValueError(f"layout={given!r}: expected one of {', '.join(LAYOUTS)} (b is batch, t time, c channel)")
    return str(given)


def arranged(clip: np.ndarray, layout: str) -> np.ndarray:
    """A channel-last clip in a port's layout; without "b", of a single item."""
    clip = clip if "b" in layout else clip[0]
    own = [axis for axis in CHANNEL_LAST if axis in layout]
    return np.ascontiguousarray(clip.transpose([own.index(axis) for axis in layout]))


def channel_last(clip: np.ndarray, layout: str) -> np.ndarray:
    """The reverse; a clip of another rank stays as it is, for whoever compares shapes."""
    if clip.ndim != len(layout):
        return clip
    own = [axis for axis in CHANNEL_LAST if axis in layout]
    clip = clip.transpose([layout.index(axis) for axis in own])
    return clip if "b" in layout else clip[None]


def layout_of(shape: Sequence[int], expected: Sequence[Sequence[int]], first: str) -> tuple[str | None, bool]:
    """The layout in which a shape is one of those expected, and whether it is so in every axis.

    One axis may differ, as where a port gives a wrong number of frames.

    Args:
        expected: channel-last, no two sizes of one alike.
        first: the layout to believe where several fit.
    """
    best: tuple[int, str] | None = None
    for layout in dict.fromkeys((first, *LAYOUTS)):
        for sizes in expected:
            by_axis = dict(zip(CHANNEL_LAST, sizes, strict=True))
            if len(shape) == len(layout):
                differing = sum(by_axis[axis] != size for axis, size in zip(layout, shape, strict=True))
                if differing <= 1 and (best is None or differing < best[0]):
                    best = differing, layout
    return (best[1], best[0] == 0) if best else (None, False)


def spelled(layout: str) -> str:
    """How a layout stands in messages: [b, c, t, h, w]."""
    return f"[{', '.join(layout)}]"
