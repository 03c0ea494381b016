"""From a picture, and from a video: encoded by our VAE, denoised, and held against diffusers' own pipelines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXImageToVideoPipeline, CogVideoXVideoToVideoPipeline
from PIL import Image

from stages.denoise import Settings, denoise
from stages.model import Model
from stages.text import text
from stages.video import read_video, write_video
from suites.generation.bars import LATENTS
from suites.generation.conftest import CALL, SEED, STEPS, latents_in
from suites.generation.tiny import FRAMES, HEIGHT, NEGATIVE, PROMPT, WIDTH, read_pipeline
from twinvae.bench.bars import check_shapes, hold, measured
from twinvae.bench.clips import synthetic_clip

SIZE = (HEIGHT + 8, 2 * WIDTH)  # of what is given, which is resized; a video of it is longer than what is made


@pytest.mark.only(dtype=("float32",))
@pytest.mark.parametrize("kind", ["i2v", "1.5 i2v", "5b"])
def test_latents_of_a_picture_or_a_video_are_those_of_diffusers_pipeline(
    kind, dtype, pipelines, once, record, tmp_path
):
    frames = ((synthetic_clip(FRAMES + 3, *SIZE)[0] + 1) * 127.5).astype(np.uint8)
    settings: dict[str, Any] = {"steps": STEPS, "seed": SEED, "dtype": dtype}
    if "i2v" in kind:
        Image.fromarray(frames[0]).save(tmp_path / "first.png")
        settings |= {"image": tmp_path / "first.png"}
        call, pipeline = {"image": Image.fromarray(frames[0]), "num_frames": FRAMES}, CogVideoXImageToVideoPipeline
    else:
        write_video(tmp_path / "before.mp4", [frames], 8)
        frames, _ = read_video(tmp_path / "before.mp4")
        settings |= {"video": tmp_path / "before.mp4", "strength": 0.8, "frames": FRAMES}
        call = {"video": [Image.fromarray(frame) for frame in frames[:FRAMES]], "strength": 0.8}
        pipeline = CogVideoXVideoToVideoPipeline

    def of_diffusers() -> np.ndarray:
        pipe, generator = read_pipeline(pipelines(kind), pipeline, dtype), torch.Generator().manual_seed(SEED)
        size = {"height": HEIGHT, "width": WIDTH}
        return np.asarray(pipe(**CALL, **call, **size, output_type="latent", generator=generator).frames)

    expected = {"latents": once((__name__, kind, dtype), of_diffusers)}
    model = Model(pipelines(kind))
    text(tmp_path, model, PROMPT, NEGATIVE, dtype=dtype)
    denoise(tmp_path, model, Settings(**settings))
    found = {"latents": latents_in(tmp_path)}
    check_shapes(found, expected)
    hold(record, LATENTS[dtype], measured(LATENTS[dtype], found, expected), f"latents, {kind} from what is given")
