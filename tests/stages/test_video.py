"""Video files: 8 bits that are clipped and rounded, every frame, the rate and the sides that were asked for."""

from __future__ import annotations

import importlib
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from stages.video import as_bytes, read_video, write_video


def test_values_are_clipped_and_then_rounded_to_the_nearest_of_8_bits():
    values = {-9.0: 0, -1.0: 0, -0.99: 1, 0.0: 128, 0.002: 128, 0.99: 254, 0.999: 255, 1.0: 255, 1.5: 255}
    found = as_bytes(np.array(list(values), np.float64))
    assert dict(zip(values, found.tolist(), strict=True)) == values


def test_values_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="2 of 4 values of the decoded frames are NaN or infinite"):
        as_bytes(np.array([0, np.nan, np.inf, 1]))


def frames(count: int, height: int, width: int) -> np.ndarray:
    """Frames of one colour each, every one brighter than the one before."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None] * 20, (count, height, width, 3))


@pytest.mark.parametrize("fps", [8, 16])
def test_a_file_has_every_frame_in_order_at_its_rate_and_size(fps, tmp_path):
    given = frames(11, 24, 40)
    assert write_video(tmp_path / "v.mp4", [given[:3], given[3:4], given[4:]], fps) == (11, 24, 40)
    found, rate = read_video(tmp_path / "v.mp4")
    assert found.shape == given.shape
    assert rate == fps
    assert np.abs(found.astype(int) - given).max() <= 4  # of compression, and of colours that become YUV
    assert imageio_ffmpeg.count_frames_and_secs(tmp_path / "v.mp4")[1] == pytest.approx(11 / fps, abs=0.01)


def test_a_video_of_a_varying_rate_has_the_frames_of_its_file(tmp_path):
    write_video(tmp_path / "v.mp4", [frames(12, 24, 40)], 8)
    every, _ = read_video(tmp_path / "v.mp4")
    fewer = ("-vf", "select='not(mod(n,3))+lt(n,4)'", "-fps_mode", "vfr", "-c:v", "ffv1")
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([ffmpeg, "-v", "error", "-i", tmp_path / "v.mp4", *fewer, tmp_path / "some.mkv"], check=True)
    found, _ = read_video(tmp_path / "some.mkv")
    assert len(found) == 6
    assert np.abs(found.astype(int) - every[[0, 1, 2, 3, 6, 9]]).max() <= 2  # another file's colours


def test_a_file_that_lacks_a_frame_does_not_replace_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"before")
    monkeypatch.setattr(imageio_ffmpeg, "count_frames_and_secs", lambda _: (2, 0.1))
    with pytest.raises(OSError, match="ffmpeg wrote 2 of 3 frames"):
        write_video(path, [frames(3, 16, 16)], 8)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_ffmpeg_is_said_with_what_to_install(tmp_path, monkeypatch):
    def none() -> str:
        raise RuntimeError("No ffmpeg exe could be found.")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", none)
    with pytest.raises(OSError, match=r"ffmpeg is missing.*pip install 'twinvae\[stages\]', or set IMAGEIO_FFMPEG_EXE"):
        write_video(tmp_path / "v.mp4", [frames(3, 16, 16)], 8)


def test_without_ffmpeg_nothing_is_decoded(run, model, monkeypatch):
    module = importlib.import_module("stages.decode")
    monkeypatch.setattr(module, "ffmpeg", lambda: (_ for _ in ()).throw(OSError("ffmpeg is missing")))
    monkeypatch.setattr(module, "decoded", lambda *_: pytest.fail("it decoded"))
    with pytest.raises(OSError, match="ffmpeg is missing"):
        module.decode(run, model, dtype="float32", fps=9)


def test_what_is_no_video_is_refused(tmp_path):
    (tmp_path / "v.mp4").write_text("text")
    with pytest.raises(OSError, match="is no video that ffmpeg reads"):
        read_video(tmp_path / "v.mp4")
