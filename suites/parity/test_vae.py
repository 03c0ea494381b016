"""The whole VAE on a clip: mean, log-variance and a sample from encoding, a video from decoding, and both in a row."""

from __future__ import annotations

import numpy as np
import pytest

from suites.parity.bars import CHAINED, CHAINED_IN_FLOAT32, ONE_DRAW
from twinvae import VideoVAE
from twinvae.bench.bars import DRAWS, WHOLE, check_dtypes, check_shapes, drawn, hold, measured, precise
from twinvae.bench.halves import fitting
from twinvae.bench.torch_bfloat16 import ProductsInFloat32
from twinvae.registry import REFERENCE

# Frames, height and width of the clip; the small one's sides are no multiples of 8.
SMALL, LARGE = (9, 17, 26), (9, 64, 96)
PICTURE_METRICS = ("psnr", "ssim")
KEY = 7


@pytest.mark.clip_frames(9)
def test_the_whole_vae_computes_what_diffusers_computes(
    vae, load, model, mode, dtype, clip, once, record, exhibit, options
):
    frames, *size = LARGE if model.is_large else SMALL
    items, *size = fitting(vae, 1 if model.is_large else DRAWS, *size)
    video = clip(frames, *size) if model.is_large else drawn(clip(frames, *size), dtype)[:items]
    # PyTorch's own float32 is past the bar: 1.96e-6 on a processor without AVX-512, where both backends are at 3.7e-7.
    truth = "float64" if model.is_large else precise(dtype)

    def reference(dtype: str) -> dict[str, np.ndarray]:
        key = (__name__, model.label, dtype, video.shape)
        with ProductsInFloat32():
            return once(key, lambda: outputs(load(REFERENCE, model, mode, dtype), None, dtype))

    def outputs(vae: VideoVAE, latents: np.ndarray | None, dtype: str) -> dict[str, np.ndarray]:
        posterior = vae.encode(video)
        if latents is None:
            latents = posterior.mean if dtype == truth else reference(truth)["mean"]
        outputs = {"mean": posterior.mean, "decode": vae.decode(latents)}
        if "moments" in vae.capabilities:
            outputs["logvar"] = posterior.logvar
        if not model.is_large:
            outputs["reconstruct"] = vae(video)
            if (
                "house" in vae.capabilities and dtype != "bfloat16"
            ):  # in a dtype other than the truth's, other noise is drawn
                outputs["sample"] = posterior.sample(KEY)
        return {name: np.asarray(array) for name, array in outputs.items()}

    found = outputs(vae, reference(truth)["mean"], dtype)
    expected = {name: reference(truth)[name] for name in found}
    in_torch = reference(dtype) if dtype == "bfloat16" else expected
    check_shapes(found, expected)
    check_dtypes(found, dtype)
    if (model, mode) == (options.models[-1], options.modes[-1]):
        frames = {"original": video, "reference": expected["decode"], "output": found["decode"]}
        exhibit("frame", {name: frame[0, video.shape[1] // 2] for name, frame in frames.items()})

    for operation in found:
        is_video = operation in ("decode", "reconstruct")
        bars = WHOLE[dtype]
        if len(video) == 1 and dtype == "bfloat16":
            bars = ONE_DRAW
        if operation in CHAINED and dtype == "float32":
            bars = CHAINED_IN_FLOAT32
        bars = {metric: bar for metric, bar in bars.items() if is_video or metric not in PICTURE_METRICS}
        values = measured(bars, *({operation: side[operation]} for side in (found, expected, in_torch)))
        hold(record, bars, values, "whole VAE", operation=operation, shape="x".join(map(str, video.shape)))
