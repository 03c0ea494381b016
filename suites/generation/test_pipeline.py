"""A prompt to a video three times, by diffusers' own pipeline and by our stages with each backend at their end."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stages.decode import decode, decoded
from stages.latents import latents_of
from stages.model import Model
from stages.video import as_bytes, read_video, write_video
from suites.generation.bars import FILES, FRAMES, IN_BFLOAT16, LATENTS
from suites.generation.conftest import latents_in
from suites.generation.tiny import FRAMES as COUNT
from suites.generation.tiny import HEIGHT, WIDTH
from twinvae.bench.bars import check_shapes, hold, measured

KINDS = ("2b", "5b", "1.5")
RATES = {"2b": 8, "1.5": 16}  # of the models' cards


@pytest.mark.only(dtype=("float64", "float32"))
@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_those_of_diffusers_pipeline(kind, dtype, staged, of_diffusers, record):
    found, expected = {"latents": latents_in(staged(kind, dtype))}, {"latents": of_diffusers(kind, dtype, "latent")}
    check_shapes(found, expected)
    hold(record, LATENTS[dtype], measured(LATENTS[dtype], found, expected), f"latents, {kind}")


@pytest.mark.only(dtype=("bfloat16",))
def test_latents_in_bfloat16_err_no_more_than_diffusers_pipeline_does(dtype, staged, of_diffusers, record):
    found = {kind: latents_in(staged(kind, dtype)) for kind in KINDS}
    expected = {kind: of_diffusers(kind, "float64", "latent", dtype) for kind in KINDS}
    check_shapes(found, expected)
    in_torch = {kind: of_diffusers(kind, dtype, "latent") for kind in KINDS}
    hold(record, IN_BFLOAT16, measured(IN_BFLOAT16, found, expected, in_torch), "latents, all together")


@pytest.mark.needs("stream", "house")
@pytest.mark.only(mode=("jit",), dtype=("float32",))
@pytest.mark.parametrize("kind", RATES)
def test_a_video_is_that_of_diffusers_pipeline_frame_by_frame(
    kind, backend, mode, dtype, staged, of_diffusers, pipelines, record, exhibit, tmp_path
):
    model, run = Model(pipelines(kind)), staged(kind, dtype)
    expected = of_diffusers(kind, dtype, "np")[0]
    assert np.mean((expected > 0) & (expected < 1)) > 0.25, "too much of the video is clipped to say anything"
    given = latents_of(run / "latents.safetensors", model)
    frames = np.concatenate(list(decoded(given, model, backend, dtype)))
    shown = np.clip(frames / 2 + 0.5, 0, 1)
    check_shapes({"video": shown}, {"video": expected})
    hold(record, FRAMES, measured(FRAMES, {"video": shown}, {"video": expected}), f"video, {kind}")

    latents = run / "latents.safetensors"
    video = decode(tmp_path, model, latents=latents, backend=backend, compare=("torch",), dtype=dtype)
    written, rate = read_video(video)
    assert written.shape == (COUNT, HEIGHT, WIDTH, 3)
    levels = np.abs(as_bytes(frames).astype(int) - (expected * 255).round().astype(int))  # as diffusers rounds
    write_video(tmp_path / "alone.mp4", [as_bytes(frames)], RATES[kind])
    values = {
        "frames": len(written), "frames a second": rate, "levels apart": levels.max(),
        "share of values apart": np.mean(levels > 0),
        "values apart in the file": np.sum(written != read_video(tmp_path / "alone.mp4")[0]),
    }  # fmt: skip
    bars = FILES | {"frames": FILES["frames"]._replace(limit=COUNT),
                    "frames a second": FILES["frames a second"]._replace(limit=RATES[kind])}  # fmt: skip
    hold(record, bars, values, f"file, {kind}")
    told = json.loads((tmp_path / "decode.json").read_text())
    assert (told["facts"]["frames"], told["facts"]["fps"]) == (COUNT, RATES[kind])
    of_torch = [frame["largest"] for frame in told["facts"]["compared"]["torch"]]  # in [-1, 1], and not clipped
    assert len(of_torch) == COUNT
    assert max(of_torch) <= 2 * (FRAMES["max_abs"].limit or 0)
    difference = np.abs(shown - expected)
    exhibit(f"frames, {kind}", {"frame": shown[COUNT // 2], "expected": expected[COUNT // 2],
                                "largest": difference.max(axis=(1, 2, 3))}, caption=kind)  # fmt: skip
