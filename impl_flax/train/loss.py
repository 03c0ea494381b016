"""What training makes small: distance to the video, distance of its slopes, and the posterior's divergence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from impl_flax.autoencoder import AutoencoderKLCogVideoX
from impl_flax.train.recipes import Recipe
from twinvae.frames import DECODED_TOGETHER, ENCODED_TOGETHER, frame_batches
from twinvae.posterior import LOGVAR_RANGE

Video = Float[Array, "b t h w c"]


def in_frame_batches(run: Callable[..., Any], frames: Array, together: int) -> Array:
    """A clip through encoder or decoder, a frame batch at a time, with the conv cache carried."""
    cache, parts = None, []
    for batch in frame_batches(frames.shape[1], together):
        out, cache = run(frames[:, batch], cache)
        parts.append(out)
    return jnp.concatenate(parts, axis=1)


def encode(model: AutoencoderKLCogVideoX, video: Video) -> tuple[Array, Array]:
    """Mean and log variance of the posterior."""
    mean, log_variance = jnp.split(in_frame_batches(model.encode, video, ENCODED_TOGETHER), 2, axis=-1)
    return mean, jnp.clip(log_variance, *LOGVAR_RANGE)


def decode(model: AutoencoderKLCogVideoX, latents: Array) -> Video:
    return in_frame_batches(model.decode, latents, DECODED_TOGETHER)


def charbonnier(error: Array, softness: float) -> Array:
    """The mean of a square below `softness` and a distance above, 0 where there is no error."""
    return (jnp.sqrt(jnp.square(error) + softness**2) - softness).mean()


def slopes(video: Video) -> list[Array]:
    """Differences between neighbours in time, height and width."""
    return [jnp.diff(video, axis=axis) for axis in (1, 2, 3) if video.shape[axis] > 1]


def divergence(mean: Array, log_variance: Array) -> Array:
    """Of the posterior from the unit Gaussian, the mean over latents."""
    return 0.5 * (jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance).mean()


def loss(recipe: Recipe, model: AutoencoderKLCogVideoX, video: Video, noise: Array) -> tuple[Array, dict[str, Array]]:
    """The loss of clips, and what it is made of; in float32 at least, whatever the clips' dtype.

    Args:
        noise: of the unit Gaussian, shaped as the latents.
    """
    precise = jnp.promote_types(video.dtype, jnp.float32)
    mean, log_variance = encode(model, video)
    if recipe.part == "decoder":
        mean, log_variance = jax.lax.stop_gradient((mean, log_variance))
    latents = mean + jnp.exp(0.5 * log_variance) * noise.astype(video.dtype)
    error = decode(model, latents).astype(precise) - video.astype(precise)
    parts = {
        "distance": charbonnier(error, recipe.softness),
        "slopes": sum(charbonnier(slope, recipe.softness) for slope in slopes(error)) / 3,
        "kl": divergence(mean.astype(precise), log_variance.astype(precise)),
        "square": jnp.square(error).mean(),
    }
    total = parts["distance"] + recipe.slopes * parts["slopes"] + recipe.kl * parts["kl"]
    return total, parts
