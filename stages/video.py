"""Video files: frames as 8 bits, every one of them at the rate that is asked for, and no side changed."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from stages.files import whole

CRF = 17  # x264's own scale; differences are hardly seen from 18 down


def as_bytes(frames: Any) -> UInt8[np.ndarray, "t h w c"]:
    """Frames in [-1, 1] as 8 bits: clipped, then rounded.

    Raises:
        ValueError: NaN or infinite values.
    """
    values = np.asarray(frames, np.float32)
    if not np.isfinite(values).all():
        raise ValueError(
            f"{int((~np.isfinite(values)).sum())} of {values.size} values of the decoded frames are NaN or infinite: "
            "look at the latents, or decode with --dtype float32"
        )
    return np.rint(np.clip((values + 1) * 127.5, 0, 255)).astype(np.uint8)


def ffmpeg() -> Any:
    """The module imageio_ffmpeg, with an ffmpeg to run.

    Raises:
        OSError: either is missing.
    """
    install = "pip install 'twinvae[stages]', or set IMAGEIO_FFMPEG_EXE to an ffmpeg of your own"
    try:
        import imageio_ffmpeg

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ImportError, RuntimeError) as error:
        raise OSError(f"ffmpeg is missing, and without it no video is written ({error}): {install}") from None
    return imageio_ffmpeg


def write_video(path: Path, chunks: Iterable[UInt8[np.ndarray, "t h w 3"]], fps: int) -> tuple[int, int, int]:
    """Write frames as they come; a file that is not complete never takes the name.

    Returns:
        Frames, height and width.
    Raises:
        OSError: ffmpeg is missing or failed, or the file cannot be written.
    """
    module, writer, count, height, width = ffmpeg(), None, 0, 0, 0
    with whole(path) as beside, contextlib.ExitStack() as closing:
        for chunk in chunks:
            if writer is None:
                height, width = chunk.shape[1:3]
                # Frames whose sides are no multiple of 16 stay as they are, and colours are those of HD everywhere.
                writer = module.write_frames(
                    beside, (width, height), fps=fps, codec="libx264", quality=None, macro_block_size=1,
                    output_params=["-crf", str(CRF), "-movflags", "+faststart"],
                )  # fmt: skip
                closing.callback(writer.close)
                with _forking():
                    writer.send(None)
            for frame in chunk:
                writer.send(np.ascontiguousarray(frame))
            count += len(chunk)
        closing.close()  # ffmpeg is done, and says nothing of how
        with _forking():
            written = module.count_frames_and_secs(beside)[0] if beside.is_file() and beside.stat().st_size else 0
        if written != count:
            raise OSError(
                f"cannot write {path}: ffmpeg wrote {written} of {count} frames (see what it says above): make room on "
                "that disk, or choose another folder"
            )
    return count, height, width


@contextlib.contextmanager
def _forking() -> Iterator[None]:
    """JAX warns of a fork; after this one, ffmpeg is started and nothing else is done."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
        yield


def read_video(path: Path) -> tuple[UInt8[np.ndarray, "t h w 3"], float]:
    """All frames of a video, and its rate.

    Raises:
        FileNotFoundError: no such file.
        OSError: ffmpeg cannot read it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: name a video that ffmpeg reads")
    reader = ffmpeg().read_frames(path, output_params=["-fps_mode", "passthrough"])
    try:
        with _forking():
            about = next(reader)
        width, height = about["size"]
        frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    except (OSError, RuntimeError, StopIteration) as error:
        raise OSError(f"{path} is no video that ffmpeg reads ({str(error).splitlines()[0][:200]})") from None
    if not frames:
        raise OSError(f"{path} holds no frame: name another video")
    return np.stack(frames), float(about["fps"])
