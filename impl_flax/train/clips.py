"""The clips that training draws from, which part of each is held out, and the crops of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from impl_flax.train.recipes import Stage

Frames = UInt8[np.ndarray, "t h w 3"]
HELD_OUT = 3  # the last third of each clip


class Clips(NamedTuple):
    """Frames by the clips' names: what training sees, and what it does not."""

    seen: dict[str, Frames]
    held_out: dict[str, Frames]


def divide(clips: Mapping[str, Frames], whole: str | None = None) -> Clips:
    """Hold out the last third of each clip, and one clip whole."""
    seen, held_out = {}, {}
    for name, frames in clips.items():
        first = 0 if name == whole else len(frames) - len(frames) // HELD_OUT
        held_out[name] = frames[first:]
        if first:
            seen[name] = frames[:first]
    return Clips(seen, held_out)


def check(clips: Mapping[str, Frames], stage: Stage) -> None:
    """Check that a stage's crops can be taken.

    Raises:
        ValueError: no clip, or one that is too short or too small.
    """
    if not clips:
        raise ValueError("there is no clip to train on: give at least one that is not held out whole")
    for name, frames in clips.items():
        if len(frames) < stage.frames or frames.shape[1] < stage.height or frames.shape[2] < stage.width:
            raise ValueError(
                f"clip {name}: {len(frames)} frames of {frames.shape[1]}x{frames.shape[2]} are left to train on, and "
                f"a step takes {stage.frames} of {stage.height}x{stage.width}: leave it out, or take smaller crops"
            )


def crops(clips: Mapping[str, Frames], stage: Stage, seed: int, step: int) -> UInt8[np.ndarray, "b t h w 3"]:
    """The clips of a step, which depend on nothing but its number: a training goes on where it was stopped."""
    rng = np.random.default_rng([seed, step])
    names = sorted(clips)
    chances = np.sqrt([len(clips[name]) for name in names])  # a long clip is seen more often, not in proportion
    taken = rng.choice(len(names), stage.clips, p=chances / chances.sum())
    return np.stack([_crop(clips[names[index]], stage, rng) for index in taken])


def _crop(frames: Frames, stage: Stage, rng: np.random.Generator) -> Frames:
    sizes = (stage.frames, stage.height, stage.width)
    first, top, left = (int(rng.integers(have - size + 1)) for have, size in zip(frames.shape, sizes, strict=False))
    crop = frames[first : first + sizes[0], top : top + sizes[1], left : left + sizes[2]]
    return crop[:, :, ::-1] if rng.integers(2) else crop
