"""How well a VAE gives held-out frames back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from impl_flax import load
from impl_flax.train.clips import Frames
from twinvae.config import VAEConfig
from twinvae.tensors import Tensors

FRAMES = 17  # of each clip, its last


class Quality(NamedTuple):
    """Of one clip: PSNR in dB of what comes back, and of every block of 8x8x4 pixels as its mean colour."""

    clip: str
    psnr: float
    mean_colour: float


def qualities(config: VAEConfig, tensors: Tensors, clips: Mapping[str, Frames]) -> list[Quality]:
    vae = load(config, tensors, dtype="float32", jit=True, checkpoint="")
    found = []
    for name, frames in clips.items():
        if len(frames) < FRAMES:
            continue
        video = _video(frames[-FRAMES:])
        back = np.asarray(vae.decode(vae.encode(video).mode()))
        found.append(Quality(name, psnr(back - video), psnr(video[:, 1:] - mean_colours(video[:, 1:]))))
    return found


def scaling_factor(config: VAEConfig, tensors: Tensors, clips: Mapping[str, Frames]) -> float:
    """One over the latents' standard deviation, as published models have it."""
    vae = load(config, tensors, dtype="float32", jit=True, checkpoint="")
    latents = [np.asarray(vae.encode(_video(frames[:FRAMES])).mode()) for frames in clips.values()]
    return round(float(1 / np.std(np.concatenate([one.reshape(-1) for one in latents]))), 5)


def psnr(error: np.ndarray) -> float:
    """Of an error of values in [-1, 1], in dB."""
    return float(10 * np.log10(4 / np.mean(np.square(error, dtype=np.float64))))


def mean_colours(video: np.ndarray) -> np.ndarray:
    """Each block of 8x8 pixels in 4 frames as its mean colour."""
    b, t, h, w, c = video.shape
    blocks = video.reshape(b, t // 4, 4, h // 8, 8, w // 8, 8, c)
    return np.broadcast_to(blocks.mean((2, 4, 6), keepdims=True), blocks.shape).reshape(video.shape)


def _video(frames: Frames) -> np.ndarray:
    return (frames[None].astype(np.float32)) / 127.5 - 1
