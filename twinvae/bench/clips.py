"""Clips to measure on: a deterministic synthetic one, and frames read from a video file."""

from __future__ import annotations

import re
import subprocess
import warnings
from pathlib import Path

import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe
from jaxtyping import Float32, UInt8
from skimage import data
from skimage.filters import gaussian
from skimage.transform import AffineTransform, resize, warp

Clip = Float32[np.ndarray, "1 t h w 3"]
NPY = b"\x93NUMPY"
PPM = re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s")


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


def filmed_clip(frames: int, height: int, width: int) -> Clip:
    """A camera that moves over a picture and nears it, in [-1, 1]: what a trained VAE is looked at with.

    The picture is scikit-image's `astronaut`, of NASA and in the public domain. A longer clip starts with the shorter
    one.
    """
    picture = data.astronaut().astype(np.float32) / 127.5 - 1
    size, side = np.array([height, width]), picture.shape[0]
    widest, shots = side / size.max(), []
    smooth = gaussian(picture, 0.2 * widest, channel_axis=-1)  # of what is between the pixels that are looked at
    for time in range(frames):
        scale = widest * (0.5 + 0.1 * np.cos(time / 20))
        top, left = (side - scale * size) / 2 * (1 + 0.8 * np.sin([time / 40 - 0.8, time / 25]))
        shots.append(warp(smooth, AffineTransform(scale=scale, translation=(left, top)), output_shape=tuple(size)))
    return np.clip(np.stack(shots), -1, 1)[None].astype(np.float32)


def read_clip(path: str | Path, frames: int, height: int, width: int) -> Clip:
    """The first frames of a video, centre-cropped to the aspect wanted and resized, in [-1, 1].

    A video's frames are those of the file, whatever its rate: none is doubled or left out to keep an even one.

    Args:
        path: any video that ffmpeg reads, whatever its name, or an .npy file of floats [t, h, w, 3] in [-1, 1], where
            NaN is allowed.
    Raises:
        FileNotFoundError: no such file.
        ValueError: no video, one that is damaged, or one with fewer frames; the message says how many were found and
            asked for.
    """
    found = _frames(Path(path), frames)
    if len(found) < frames:
        raise ValueError(f"clip {path}: found {len(found)} frames, asked for {frames}: use a longer clip")
    return np.stack([_fitted(frame, height, width) for frame in found])[None]


def _frames(path: Path, count: int) -> list[np.ndarray]:
    """The first frames, or as many as there are."""
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(f"clip {path}: {'a folder' if path.is_dir() else 'no such file'}; name a video file")
    with path.open("rb") as file:
        stored = file.read(len(NPY)) == NPY or path.suffix.lower() == ".npy"
    return list(_stored_frames(path)[:count]) if stored else _video_frames(path, count)


def video_frames(path: Path, count: int) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The first frames of a video, or as many as there are, of the file's own size.

    Raises:
        FileNotFoundError, ValueError: as `read_clip`.
    """
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(f"clip {path}: {'a folder' if path.is_dir() else 'no such file'}; name a video file")
    return _video_frames(path, count)


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


def _video_frames(path: Path, count: int) -> list[UInt8[np.ndarray, "h w 3"]]:
    """What ffmpeg decodes of a file's first video stream, until something in it is damaged."""
    # It is to stop at damage, not to make frames up, and has one thread, so that what was before is there. PPM says the
    # size of each frame.
    done = subprocess.run(
        [get_ffmpeg_exe(), "-nostdin", "-hide_banner", "-nostats", "-loglevel", "level+info", "-xerror",
         "-err_detect", "crccheck+bitstream+buffer+explode", "-threads", "1", "-i", f"file:{path}",
         "-map", "0:v:0", "-frames:v", str(count), "-fps_mode", "passthrough",
         "-f", "image2pipe", "-c:v", "ppm", "-pix_fmt", "rgb24", "-"],
        capture_output=True, check=False,
    )  # fmt: skip
    found, log = _images(done.stdout), done.stderr.decode(errors="replace")
    errors = re.findall(r"^.*\[(?:error|fatal)\] *(.*)$", log, re.MULTILINE)
    said = f"({errors[0].strip()[:200] if errors else 'it holds no frame'})"
    if not found or "Input #0, tty" in log:  # which is how ffmpeg shows a text
        raise ValueError(f"clip {path}: not a video that ffmpeg can read {said}")
    if errors and len(found) < count:
        raise ValueError(
            f"clip {path}: damaged from about frame {len(found)} on {said}, asked for {count} frames: use another "
            "copy, or fewer frames"
        )
    if errors:
        warnings.warn(f"clip {path}: ffmpeg finds damage in or after frames 0 to {count - 1} {said}", stacklevel=4)
    return found


def _images(content: bytes) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The images of a stream of PPM; one that was cut short is left out."""
    images, start = [], 0
    while header := PPM.match(content, start):
        width, height = map(int, header.groups())
        size = height * width * 3
        if header.end() + size > len(content):
            break
        images.append(np.frombuffer(content, np.uint8, size, header.end()).reshape(height, width, 3))
        start = header.end() + size
    return images


def _fitted(frame: np.ndarray, height: int, width: int) -> Float32[np.ndarray, "h w 3"]:
    pixels = frame.astype(np.float32) / 127.5 - 1 if frame.dtype == np.uint8 else frame
    scale = min(frame.shape[0] / height, frame.shape[1] / width)
    crop_height, crop_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (frame.shape[0] - crop_height) // 2, (frame.shape[1] - crop_width) // 2
    pixels = pixels[top : top + crop_height, left : left + crop_width]
    if pixels.shape[:2] == (height, width):
        return pixels
    return resize(pixels, (height, width), order=1, anti_aliasing=True).astype(np.float32)
