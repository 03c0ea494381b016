"""The clips: what the synthetic one shows, and what reading a video file gives and refuses."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from imageio_ffmpeg import get_ffmpeg_exe

from twinvae.bench.clips import filmed_clip, read_clip, synthetic_clip

SIZES = [(1, 1, 1), (1, 8, 8), (3, 17, 26), (18, 9, 33)]


@pytest.fixture
def film(tmp_path):
    """Twelve 48x80 frames: red on the left, green on the right, brightening with time."""
    frames = np.zeros((12, 48, 80, 3), np.uint8)
    frames[:, :, :40, 0] = frames[:, :, 40:, 1] = 20 * np.arange(12)[:, None, None]
    path = tmp_path / "film.mp4"
    command = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "80x48", "-r", "8", "-i", "-", "-crf", "1", str(path)]
    subprocess.run([get_ffmpeg_exe(), "-v", "error", *command], input=frames.tobytes(), check=True)
    return path


def filmed(path: Path, *how: str, seconds: int = 1) -> Path:
    """A test picture that moves, 10 frames a second."""
    source = ["-f", "lavfi", "-i", f"testsrc=size=176x144:rate=10:duration={seconds}"]
    subprocess.run([get_ffmpeg_exe(), "-v", "error", *source, *how, str(path)], check=True)
    return path


def test_the_filmed_clip_moves_a_little_from_frame_to_frame_and_a_longer_one_starts_with_the_shorter():
    clip = filmed_clip(6, 32, 48)
    assert (clip.shape, clip.dtype) == ((1, 6, 32, 48, 3), np.float32)
    assert np.abs(clip).max() <= 1
    np.testing.assert_array_equal(filmed_clip(4, 32, 48), clip[:, :4])
    steps = np.abs(np.diff(clip, axis=1)).mean(axis=(0, 2, 3, 4))
    assert np.all((steps > 0.005) & (steps < 0.3 * clip.std()))


@pytest.mark.parametrize(("frames", "height", "width"), SIZES)
def test_the_synthetic_clip_has_any_size_and_stays_in_range(frames, height, width):
    clip = synthetic_clip(frames, height, width)
    assert (clip.shape, clip.dtype) == ((1, frames, height, width, 3), np.float32)
    assert np.abs(clip).max() <= 1


def test_the_synthetic_clip_depends_on_its_seed_alone():
    assert np.array_equal(synthetic_clip(4, 16, 24, seed=3), synthetic_clip(4, 16, 24, seed=3))
    assert not np.array_equal(synthetic_clip(4, 16, 24, seed=3), synthetic_clip(4, 16, 24, seed=4))


def test_a_longer_synthetic_clip_starts_with_the_shorter_one():
    assert np.array_equal(synthetic_clip(9, 16, 24)[:, :4], synthetic_clip(4, 16, 24))


def test_the_synthetic_clip_moves_has_edges_and_is_symmetric_in_nothing():
    clip = synthetic_clip(9, 48, 48)
    assert np.abs(np.diff(clip, axis=1)).mean(axis=(0, 2, 3, 4)).min() > 0.01  # every frame moves
    assert np.abs(np.diff(clip, axis=3)).max() > 0.5  # a hard edge
    for other in (clip[:, ::-1], clip[:, :, ::-1], clip[:, :, :, ::-1], clip[..., ::-1], clip.swapaxes(2, 3)):
        assert np.abs(clip - other).mean() > 0.05


def test_a_video_is_read_in_order_in_range_and_the_right_way_round(film):
    clip = read_clip(film, 10, 48, 80)
    assert (clip.shape, clip.dtype) == ((1, 10, 48, 80, 3), np.float32)
    left, right = clip[0, :, 10:38, 5:35].mean(axis=(1, 2)), clip[0, :, 10:38, 45:75].mean(axis=(1, 2))
    brightness = 20 * np.arange(10) / 127.5 - 1
    assert np.allclose(left[:, 0], brightness, atol=0.1)
    assert np.allclose(right[:, 1], brightness, atol=0.1)
    assert left[:, 1].max() < -0.8
    assert right[:, 0].max() < -0.8


@pytest.mark.parametrize(("height", "width"), [(24, 40), (48, 20), (16, 80), (100, 30)])
def test_a_video_is_cropped_from_its_centre_and_resized(film, height, width):
    clip = read_clip(film, 8, height, width)
    assert clip.shape == (1, 8, height, width, 3)
    reddish = clip[0, 7, :, :, 0].mean(axis=0) > -0.5
    assert abs(reddish.sum() - width / 2) <= 1  # the seam between red and green stays in the middle


def test_stored_floats_are_read_as_they_are_with_nan(tmp_path):
    stored = synthetic_clip(3, 8, 10)[0]
    stored[1, 2, 3, 0] = np.nan
    np.save(tmp_path / "clip.npy", stored)
    assert np.array_equal(read_clip(tmp_path / "clip.npy", 3, 8, 10)[0], stored, equal_nan=True)


def test_a_stored_array_is_read_whatever_its_name(tmp_path):
    stored = synthetic_clip(3, 8, 10)[0]
    np.save(tmp_path / "clip.npy", stored)
    for name in ("clip.NPY", "clip"):
        (tmp_path / name).write_bytes((tmp_path / "clip.npy").read_bytes())
        assert np.array_equal(read_clip(tmp_path / name, 2, 8, 10)[0], stored[:2])


def test_a_video_that_is_too_short_says_how_many_frames_it_has(film):
    with pytest.raises(ValueError, match="found 12 frames, asked for 13: use a longer clip"):
        read_clip(film, 13, 8, 8)


CONTAINERS: dict[str, tuple[str, ...]] = {
    "ts": (), "mts": ("-f", "mpegts"), "m2ts": ("-f", "mpegts"), "m4v": ("-c:v", "mpeg4"), "3gp": ("-c:v", "mpeg4"),
    "flv": ("-c:v", "flv"), "ogv": ("-c:v", "libtheora"), "mxf": ("-c:v", "mpeg2video", "-r", "25"), "gif": (),
    "avi": (), "mkv": (), "mov": (), "webm": (), "MP4": (), "wmv": (), "y4m": ("-pix_fmt", "yuv420p"),
    "vob": ("-r", "25"), "nut": (),
}  # fmt: skip


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_that_ffmpeg_reads_is_read_with_or_without_its_extension(container, tmp_path):
    path = filmed(tmp_path / f"clip.{container}", *CONTAINERS[container])
    count = 25 if "-r" in CONTAINERS[container] else 10
    clip = read_clip(path, 9, 144, 176)
    with pytest.raises(ValueError, match=f"found {count} frames, asked for 99"):
        read_clip(path, 99, 8, 8)
    assert np.array_equal(read_clip(path.rename(tmp_path / "clip"), 9, 144, 176), clip)


@pytest.mark.parametrize("name", ["-i.mp4", "a:b.mp4", "a b%03d.mp4", "a'b.mp4", "\u00fc.mp4"])
def test_a_file_may_have_any_name(film, name, monkeypatch):
    monkeypatch.chdir(film.parent)
    film.rename(name)
    assert read_clip(name, 12, 8, 8).shape == (1, 12, 8, 8, 3)


def test_a_variable_rate_gives_the_frames_of_the_file(tmp_path):
    every = read_clip(filmed(tmp_path / "all.mkv", "-c:v", "ffv1", seconds=3), 30, 16, 16)[0]
    select = ("-vf", "select='not(mod(n,3))+lt(n,10)'", "-fps_mode", "vfr", "-c:v", "ffv1")
    path = filmed(tmp_path / "some.mkv", *select, seconds=3)
    kept = [n for n in range(30) if n % 3 == 0 or n < 10]
    assert np.array_equal(read_clip(path, len(kept), 16, 16)[0], every[kept])
    with pytest.raises(ValueError, match=f"found {len(kept)} frames, asked for 20"):
        read_clip(path, 20, 16, 16)


@pytest.mark.filterwarnings("ignore:.*ffmpeg finds damage")
@pytest.mark.parametrize("codec", ["ffv1", "libx264", "mpeg4"])
def test_a_damaged_file_is_refused_with_the_frame_and_read_before_it(codec, tmp_path):
    path = filmed(tmp_path / "clip.mkv", "-c:v", codec, "-g", "1", seconds=3)
    whole = read_clip(path, 30, 16, 16)
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 3000):
        content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"clip.mkv: damaged from about frame (8|9|1\d|2\d) on .* for 30 frames"):
        read_clip(path, 30, 16, 16)
    assert np.array_equal(read_clip(path, 8, 16, 16), whole[:, :8])


def test_damage_that_costs_no_frame_that_is_wanted_is_a_warning(tmp_path):
    path = filmed(tmp_path / "clip.mkv", "-c:v", "ffv1", "-level", "3", "-slicecrc", "0", seconds=3)
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, len(content) // 2 + 3000):
        content[place] ^= 0xFF
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"clip.mkv: ffmpeg finds damage in or after frames 0 to 13"):
        read_clip(path, 14, 8, 8)


BAD_FILES = {
    "text.mp4": (b"this is no video\n" * 50, "not a video"),
    "text.txt": (b"this is no video\n", "not a video"),
    "empty.mp4": (b"", "not a video"),
    "noise.npy": (b"not numpy", "not a readable .npy"),
}


@pytest.mark.parametrize(("name", "content", "message"), [(name, *case) for name, case in BAD_FILES.items()])
def test_a_file_that_is_no_video_is_refused_by_name(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: {message}"):
        read_clip(tmp_path / name, 1, 8, 8)


def test_a_truncated_video_is_refused(film):
    film.write_bytes(film.read_bytes()[:200])
    with pytest.raises(ValueError, match="not a video"):
        read_clip(film, 1, 8, 8)


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    for path in (tmp_path / "none.mp4", tmp_path):
        with pytest.raises(FileNotFoundError, match="name a video file"):
            read_clip(path, 1, 8, 8)


BAD_ARRAYS = {
    "rank": (np.zeros((2, 8, 8), np.float32), r"\(2, 8, 8\), expected floats"),
    "channels": (np.zeros((2, 8, 8, 4), np.float32), "expected floats"),
    "integers": (np.zeros((2, 8, 8, 3), np.uint8), "found uint8"),
    "range": (np.full((2, 8, 8, 3), 255.0), r"up to 255, expected them in \[-1, 1\]"),
}


@pytest.mark.parametrize(("stored", "message"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_a_stored_array_that_is_no_clip_is_refused(tmp_path, stored, message):
    np.save(tmp_path / "clip.npy", stored)
    with pytest.raises(ValueError, match=message):
        read_clip(tmp_path / "clip.npy", 1, 8, 8)


@pytest.mark.parametrize("container", ["ts", "mkv", "mp4"])
def test_of_several_videos_in_a_file_the_first_is_read(container, tmp_path):
    colours = ["-f", "lavfi", "-i", "color=red:s=32x16:r=8:d=1", "-f", "lavfi", "-i", "color=blue:s=64x48:r=8:d=1"]
    path = tmp_path / f"two.{container}"
    subprocess.run([get_ffmpeg_exe(), "-v", "error", *colours, "-map", "0:v", "-map", "1:v", str(path)], check=True)
    red, _, blue = read_clip(path, 3, 16, 32).mean((0, 1, 2, 3))
    assert red > 0.5 > -0.5 > blue
