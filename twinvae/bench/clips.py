"""Clips to measure on: a deterministic synthetic one, and frames read from a video file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from jaxtyping import Float32, UInt8
from skimage.transform import resize

Clip = Float32[np.ndarray, "1 t h w 3"]


def synthetic_clip(frames: int, height: int, width: int, seed: int = 0) -> Clip:
    """A clip with gradients, moving textures, hard edges and grain, in [-1, 1].

    The same seed and size always give the same frames, and a longer clip starts with the shorter one. Nothing in it is
    symmetric: mirrored, transposed or reordered frames and channels are different frames.
    """
    rng = np.random.default_rng(seed)
    time = np.arange(frames)[:, None, None, None] / 8
    y = (np.arange(height)[None, :, None, None] + 0.5) / height
    x = (np.arange(width)[None, None, :, None] + 0.5) / width

    slope_y, slope_x, level = rng.uniform(-0.5, 0.5, (3, 3))
    clip = level + slope_y * (y - 0.5) + slope_x * (x - 0.5) + np.zeros((frames, height, width, 3))
    for frequency in (2, 5, 11, 19):  # waves per frame: textures from coarse to fine, each drifting its own way
        angle, drift = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 2)
        across = np.cos(angle) * x + np.sin(angle) * y
        clip += rng.uniform(0.05, 0.15, 3) * np.sin(2 * np.pi * (frequency * across + drift * time))

    centre_y, centre_x = 0.5 + 0.3 * np.sin(1.7 * time), 0.5 + 0.35 * np.cos(1.1 * time + 0.4)
    disc = (y - centre_y) ** 2 + (x - centre_x) ** 2 < 0.04
    clip = np.where(disc, rng.uniform(-0.9, 0.9, 3), clip)
    bar = np.abs(x + 0.25 * y - (0.2 + 0.15 * time) % 1.25) < 0.05
    clip = np.where(bar, rng.uniform(-0.9, 0.9, 3), clip)
    checkers = (np.arange(height)[:, None] + np.arange(width)) % 2 * 2.0 - 1
    clip += np.where((y > 0.6) & (x < 0.4), 0.2, 0) * checkers[None, :, :, None]
    clip += 0.03 * rng.standard_normal((height, width, 3))
    return np.clip(clip, -1, 1)[None].astype(np.float32)


def read_clip(path: str | Path, frames: int, height: int, width: int) -> Clip:
    """The first frames of a video, centre-cropped to the aspect wanted and resized, in [-1, 1].

    Args:
        path: any video that ffmpeg reads, or an .npy file of floats [t, h, w, 3] in [-1, 1], where NaN is allowed.
    Raises:
        FileNotFoundError: no such file.
        ValueError: no video, or one with fewer frames; the message says how many were found and asked for.
    """
    found = list(islice(_frames(Path(path)), frames))
    if len(found) < frames:
        raise ValueError(f"clip {path}: found {len(found)} frames, asked for {frames}: use a longer clip")
    return np.stack([_fitted(frame, height, width) for frame in found])[None]


def _frames(path: Path) -> Iterator[np.ndarray]:
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(f"clip {path}: {'a folder' if path.is_dir() else 'no such file'}; name a video file")
    if path.suffix == ".npy":
        return iter(_stored_frames(path))
    return _video_frames(path)


def _stored_frames(path: Path) -> Float32[np.ndarray, "t h w 3"]:
    try:
        stored = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"clip {path}: not a readable .npy array ({error})") from None
    if stored.ndim != 4 or stored.shape[-1] != 3 or not np.issubdtype(stored.dtype, np.floating):
        raise ValueError(f"clip {path}: found {stored.dtype} {stored.shape}, expected floats [time, height, width, 3]")
    if stored.size and np.nanmax(np.abs(stored), initial=0) > 1:
        raise ValueError(f"clip {path}: found values up to {np.nanmax(np.abs(stored)):g}, expected them in [-1, 1]")
    return stored.astype(np.float32)


def _video_frames(path: Path) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    try:
        yield from iio.imiter(path, plugin="FFMPEG")
    except (OSError, RuntimeError, IndexError, StopIteration) as error:
        raise ValueError(f"clip {path}: not a video that ffmpeg can read ({str(error).strip()[:200]})") from None


def _fitted(frame: np.ndarray, height: int, width: int) -> Float32[np.ndarray, "h w 3"]:
    pixels = frame.astype(np.float32) / 127.5 - 1 if frame.dtype == np.uint8 else frame
    scale = min(frame.shape[0] / height, frame.shape[1] / width)
    crop_height, crop_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (frame.shape[0] - crop_height) // 2, (frame.shape[1] - crop_width) // 2
    pixels = pixels[top : top + crop_height, left : left + crop_width]
    if pixels.shape[:2] == (height, width):
        return pixels
    return resize(pixels, (height, width), order=1, anti_aliasing=True).astype(np.float32)
