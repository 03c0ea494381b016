"""What denoising starts with beside a text: a picture, or a video, encoded by our VAE."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

import twinvae
from stages.checks import Sizes, padded_latents
from stages.files import digest_of_files
from stages.model import Model
from stages.video import read_video


class Condition(NamedTuple):
    """A picture or a video; neither.

    Attributes:
        parts, inputs: digests.
        pixels: [1, t, h, w, 3] in [-1, 1].
        latents: that are denoised, in time.
    """

    kind: Literal["image", "video"] | None = None
    parts: dict[str, str] = {}  # noqa: RUF012, never written to
    inputs: dict[str, str] = {}  # noqa: RUF012
    pixels: Any = None
    model: Model | None = None
    latents: int = 0

    def draw(self, generator: torch.Generator, dtype: str) -> np.ndarray | None:
        """Its latents, a sample of the posterior as diffusers' pipelines draw it from this generator; None without.

        An image's are those of its frame, and zeros for the rest.
        """
        if self.kind is None or self.model is None:
            return None
        vae = twinvae.load("flax", weights=str(self.model.folder), subfolder="vae", dtype=dtype)
        posterior = vae.encode(self.pixels)
        mean, std = (np.asarray(x, np.float64 if dtype == "float64" else np.float32)
                     for x in (posterior.mean, posterior.std))  # fmt: skip
        batch, frames, height, width, channels = mean.shape
        drawn = torch.randn((batch, channels, frames, height, width), generator=generator, dtype=getattr(torch, dtype))
        wide = drawn.to(torch.promote_types(drawn.dtype, torch.float32)).numpy()
        latents = mean + std * np.moveaxis(wide, 1, -1)
        scale = vae.config.scaling_factor
        if self.kind == "video":
            return latents * scale
        latents = latents / scale if vae.config.invert_scale_latents else latents * scale
        rest = np.zeros((batch, self.latents - 1, height, width, channels), latents.dtype)
        return np.concatenate([latents, rest], axis=1)


def condition_of(model: Model, image: Path | None, video: Path | None, sizes: Sizes) -> Condition:
    """Read what denoising starts with.

    Raises:
        FileNotFoundError, OSError: a file that is missing or cannot be read.
        ValueError: what this model does not start with, or a video of too few frames.
    """
    config = model.config("transformer")
    beside = config["in_channels"] - config["out_channels"]
    if image and video:
        raise ValueError("an image and a video to start from: give one of them")
    if image and not beside:
        raise ValueError(f"{image}: this model starts from no image (its transformer has no channels for one); "
                         "take a model such as CogVideoX-5b-I2V")  # fmt: skip
    if beside and not image:
        raise ValueError("this model starts from an image: give one with --image")
    given = image or video
    if given is None:
        return Condition()
    frames = _image(image) if image else _frames(video, sizes.frames)  # type: ignore[arg-type]
    return Condition(
        "image" if image else "video", model.digests("vae"), {"image" if image else "video": digest_of_files([given])},
        _fitted(frames, sizes), model, padded_latents(model, sizes.frames),
    )  # fmt: skip


def _image(path: Path) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))[None]
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} not found: name a picture") from None
    except UnidentifiedImageError:
        raise OSError(f"{path} is no picture that Pillow reads") from None


def _frames(path: Path, count: int) -> np.ndarray:
    frames, _ = read_video(path)
    if len(frames) < count:
        raise ValueError(f"{path} has {len(frames)} frames, asked for {count}: give fewer --frames, or a longer video")
    return frames[:count]


def _fitted(frames: np.ndarray, sizes: Sizes) -> np.ndarray:
    """Frames in [-1, 1], resized as diffusers' pipelines do: by Lanczos, whatever that does to the aspect."""
    from PIL import Image

    size = (sizes.width, sizes.height)
    resized = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in frames]
    return (np.stack(resized).astype(np.float32) / 255 * 2 - 1)[None]
