"""Denoising: steps of a schedule with guidance as one program, whose state can be kept and gone on with."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from impl_torchax.transformer import Transformer
from stages.schedule import Schedule, guidance_scales

Latents = Float[Array, "b t h w c"]


class State(NamedTuple):
    """Where denoising stands: all that its next step takes beside the settings, to be kept bit for bit.

    Attributes:
        latents: in the transformer's dtype.
        estimate: of the clean latents, by the step before; zeros before the first one. In float32 at least.
        step: steps that are done.
    """

    latents: Latents
    estimate: Latents
    step: int


def begin(latents: Any, transformer: Transformer) -> State:
    """The state before the first step, of noise, or of a video's latents with noise."""
    with transformer.scope():
        latents = transformer.placed(jnp.asarray(latents, transformer.dtype))
        return State(latents, jnp.zeros_like(latents, dtype=_precise(latents.dtype)), 0)


def sample(
    transformer: Transformer,
    schedule: Schedule,
    state: State,
    text: Float[Any, "b n c"],
    negative: Float[Any, "b n c"] | None = None,
    *,
    guidance: float = 6.0,
    dynamic: bool = False,
    noise: Any = None,
    image: Float[Any, "b t h w c"] | None = None,
    last: int | None = None,
) -> State:
    """Denoise from where a state stands, up to a step. However steps are divided into calls, the bits are the same.

    Args:
        text, negative: embeddings of the prompts, and of what guidance leads away from; where `negative` is None or
            the guidance at most 1, there is none, and half of the work.
        guidance, dynamic: see `guidance_scales`.
        noise: where the schedule draws any: a JAX key (of `jax.random.key`), from which each step draws its own, or
            the noise of all steps of the schedule, [steps, b, t, h, w, c], as `torch_noise` gives it.
        image: latents that the transformer sees beside the noisy ones, of a model from images to videos.
        last: steps that are done in the end; all of the schedule where it is None.
    Raises:
        ValueError: shapes that do not go together, noise that is missing, or a step beyond the schedule.
    """
    last = len(schedule) if last is None else last
    if not state.step <= last <= len(schedule):
        raise ValueError(
            f"denoising from step {state.step} to {last} of {len(schedule)}: expected steps in this order; begin anew, "
            "or take the schedule that the state was made with"
        )
    guided = negative is not None and guidance > 1
    _check(transformer, schedule, state, text, negative, noise, image)
    with transformer.scope():
        dtype = jnp.dtype(transformer.dtype)
        texts = [negative, text] if guided else [text]
        texts = transformer.placed(jnp.concatenate([jnp.asarray(one, dtype) for one in texts]))
        image = None if image is None else transformer.placed(jnp.asarray(image, dtype))
        table = Table(
            transformer.sinusoids(schedule.timesteps),
            jnp.asarray(schedule.next, _precise(dtype)),
            jnp.asarray(schedule.estimate, _precise(dtype)),
            jnp.asarray(guidance_scales(schedule, guidance, dynamic), jnp.float32),
        )
        if not schedule.draws.any():
            noise = None
        elif not _is_key(noise):
            noise = transformer.placed(jnp.asarray(noise, _precise(dtype)))
        positions = transformer.positions(state.latents.shape)
        latents, estimate = transformer.program(denoise, guided=guided)(
            transformer.params, state.latents, state.estimate, table, texts, positions, noise, image, state.step, last
        )
    return State(latents, estimate, last)


class Table(NamedTuple):
    """A schedule on the device, a row for each step."""

    sinusoids: Float[Array, "steps c"]
    next: Float[Array, "steps 4"]
    estimate: Float[Array, "steps 2"]
    guidance: Float[Array, " steps"]


def denoise(
    predict: Any,
    params: Any,
    latents: Latents,
    estimate: Latents,
    table: Table,
    texts: Float[Array, "bs n c"],
    positions: Any,
    noise: Any,
    image: Latents | None,
    first: Any,
    last: Any,
    *,
    guided: bool,
) -> tuple[Latents, Latents]:
    """Steps `first` to `last` as one loop; they are no part of the program, which is the same for any of them.

    (A scan of one step is compiled as no loop at all, and may round differently.)
    """
    dtype, copies = latents.dtype, 2 if guided else 1

    def step(place: Any, carry: tuple[Latents, Latents]) -> tuple[Latents, Latents]:
        latents, before = carry
        row = jax.tree.map(lambda rows: jax.lax.dynamic_index_in_dim(rows, place, keepdims=False), table)
        seen = latents if image is None else jnp.concatenate([latents, image], axis=-1)
        seen = jnp.concatenate([seen] * copies)
        sinusoid = jnp.broadcast_to(row.sinusoids, (len(seen), *row.sinusoids.shape))
        # diffusers' pipelines guide in float32, also where all else is in float64.
        prediction = predict(params, seen, texts, sinusoid, positions).astype(jnp.float32)
        if guided:
            away, towards = jnp.split(prediction, 2)
            prediction = away + row.guidance * (towards - away)
        wide = latents.astype(estimate.dtype)
        prediction = prediction.astype(estimate.dtype)
        following = row.next[0] * wide + row.next[1] * prediction + row.next[2] * before
        if noise is not None:
            following += row.next[3] * _drawn(noise, place, latents).astype(estimate.dtype)
        return following.astype(dtype), row.estimate[0] * wide + row.estimate[1] * prediction

    return jax.lax.fori_loop(first, last, step, (latents, estimate))


def _drawn(noise: Any, place: Any, latents: Latents) -> Latents:
    """A step's noise, given or drawn; in the dtype of the latents, as diffusers draws it."""
    if _is_key(noise):
        return jax.random.normal(jax.random.fold_in(noise, place), latents.shape, latents.dtype)
    return jax.lax.dynamic_index_in_dim(noise, place, keepdims=False)


def _is_key(noise: Any) -> bool:
    return isinstance(noise, jax.Array) and jnp.issubdtype(noise.dtype, jax.dtypes.prng_key)


def _precise(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32)


def _check(
    transformer: Transformer, schedule: Schedule, state: State, text: Any, negative: Any, noise: Any, image: Any
) -> None:
    shape, config = state.latents.shape, transformer.config
    channels = config["in_channels"] - (0 if image is None else image.shape[-1])
    if shape[-1] != channels or (image is not None and image.shape[:-1] != shape[:-1]):
        beside = "" if image is None else f" beside an image's of {tuple(image.shape)}"
        raise ValueError(
            f"latents of {tuple(shape)}{beside}: this transformer takes {config['in_channels']} channels in all, last, "
            "and an image's latents of the size of the noisy ones; give both as [b, t, h, w, c]"
        )
    for name, given in (("text", text), ("negative", negative)):
        if given is not None and (given.shape[0], given.shape[-1]) != (shape[0], config["text_embed_dim"]):
            raise ValueError(
                f"{name} embeddings of {tuple(given.shape)} for {shape[0]} clips: expected [{shape[0]}, tokens, "
                f"{config['text_embed_dim']}]; take the text encoder of this transformer's model"
            )
    if negative is not None and negative.shape != text.shape:
        raise ValueError(
            f"negative embeddings of {tuple(negative.shape)} beside text of {tuple(text.shape)}: cut or fill both to "
            "the same number of tokens"
        )
    if schedule.draws.any() and not _is_key(noise):
        expected = (len(schedule), *shape)
        if noise is None or tuple(np.shape(noise)) != expected:
            found = "none" if noise is None else f"of {tuple(np.shape(noise))}"
            raise ValueError(
                f"noise: {found}; this schedule draws some at each step: give a key of jax.random.key, or an array "
                f"of {expected}, as stages.schedule.torch_noise makes it"
            )
