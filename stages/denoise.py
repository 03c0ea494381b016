"""Denoising: text to latents, `latents.safetensors`; what is done is kept after each step, in `steps.safetensors`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from rich.console import Console

from impl_torchax.transformer import Transformer, load_transformer
from stages.checks import check_model, check_sizes, latent_frames, padded_latents
from stages.conditions import Condition, condition_of
from stages.files import LATENTS, STEPS, TEXT, Denoise, Latents, differences, read, reason, write
from stages.model import GUIDANCE, Model, usual_dtype
from stages.model import STEPS as USUAL_STEPS
from stages.sampling import State, begin, sample
from stages.schedule import Schedule, probe, torch_noise
from stages.telling import QUIET, counting, say

SCHEDULERS = {"ddim": "CogVideoXDDIMScheduler", "dpm": "CogVideoXDPMScheduler"}


class Settings(NamedTuple):
    """How to denoise; None: as the model's card has it.

    Args:
        scheduler: "ddim" or "dpm".
        noise: "torch", the very noise that diffusers' pipelines draw from this seed on a CPU, or "jax", drawn on the
            device.
        image: a picture that a model from images to videos starts with.
        video: a video to start from; `strength` says how much of the steps is done on it.
    """

    frames: int | None = None
    height: int | None = None
    width: int | None = None
    steps: int = USUAL_STEPS
    guidance: float = GUIDANCE
    dynamic_guidance: bool = False
    scheduler: str | None = None
    seed: int = 0
    noise: str = "torch"
    dtype: str | None = None
    image: Path | None = None
    video: Path | None = None
    strength: float = 0.8


def denoise(
    folder: Path, model: Model, settings: Settings | None = None, *, save_every: int = 1, mesh: Any = None,
    console: Console = QUIET,
) -> Path:  # fmt: skip
    """Denoise latents for the text in a folder, or go on where that was stopped.

    Args:
        folder: of the run, with `text.safetensors`.
        save_every: steps between two times that the state is kept.
        mesh: of devices, see `twinvae.jax.tokens.make_token_mesh`.
    Raises:
        ValueError: settings that the model does not take, or a text that is of another model or was edited.
        FileNotFoundError, OSError: a text or parts that are missing, or a folder that cannot be written.
    """
    settings, path = settings or Settings(), folder / LATENTS
    if save_every < 1:
        raise ValueError(f"the state is to be kept every {save_every} steps: give 1 or more")
    texts, made = read(folder / TEXT, "text")
    check_model(made, model, folder / TEXT)
    sizes = check_sizes(model, settings.frames, settings.height, settings.width, bool(settings.video))
    condition = condition_of(model, settings.image, settings.video, sizes)
    scheduler = _scheduler(model, settings.scheduler)
    strength = settings.strength if settings.video else 1.0
    if settings.noise not in ("torch", "jax"):
        raise ValueError(f"noise of {settings.noise!r}: expected torch or jax")
    assert made.recipe.stage == "text"
    recipe = Denoise(
        model=model.name,
        parts=model.digests("transformer", "scheduler") | condition.parts,
        vae_config=model.vae_identity(),
        inputs={"text": made.content} | condition.inputs,
        text=made.recipe,
        **sizes._asdict(),
        steps=settings.steps,
        guidance=settings.guidance,
        dynamic_guidance=settings.dynamic_guidance,
        scheduler=type(scheduler).__name__,
        seed=settings.seed,
        noise=settings.noise,
        dtype=settings.dtype or usual_dtype(),
        strength=strength,
    )
    why = reason(path, "denoise", recipe)
    if not why:
        say(console, f"denoise: {path} is of this text, this model and these settings: kept")
        return path
    say(console, f"denoise: {why}")
    schedule = probe(scheduler, settings.steps, strength=strength)
    first = np.zeros(_shape(model, recipe))
    transformer = load_transformer(model.part("transformer"), dtype=recipe.dtype, mesh=mesh)
    transformer.network.positions(first.shape)  # what it does not take, it says now
    noise, initial, image = _noise(recipe, schedule, first.shape, condition)
    state = _resumed(folder, recipe, transformer, console) or begin(initial, transformer)
    drop = first.shape[1] - latent_frames(model, recipe.frames)
    began, before = time.monotonic(), state.step

    def about(step: int) -> Latents:
        return Latents(layout="bthwc", scaled=True, drop=drop, fps=model.fps, steps=step)

    with counting(console, "denoise", len(schedule), state.step) as on:
        while state.step < len(schedule):
            last = min(state.step + save_every, len(schedule))
            after = sample(
                transformer, schedule, state, texts["prompt"], texts["negative_prompt"], guidance=recipe.guidance,
                dynamic=recipe.dynamic_guidance, noise=noise, image=image, last=last,
            )  # fmt: skip
            kept = {"latents": np.asarray(after.latents), "estimate": np.asarray(after.estimate)}
            if not np.isfinite(kept["latents"].astype(np.float32)).all():
                raise ValueError(
                    f"NaN or infinite latents after step {after.step} of {len(schedule)}: try --dtype float32; "
                    f"{STEPS} has the steps before"
                )
            if last < len(schedule):
                write(folder / STEPS, kept, recipe, about(last))
            on(after.step - state.step)
            state = after
    seconds = time.monotonic() - began
    write(path, {"latents": kept["latents"]}, recipe, about(state.step),
          {"seconds": round(seconds, 2), "steps in this process": state.step - before})  # fmt: skip
    (folder / STEPS).unlink(missing_ok=True)
    say(console, f"denoise: wrote {path}, {state.step - before} steps in {seconds:.1f} s")
    return path


def _resumed(folder: Path, recipe: Denoise, transformer: Transformer, console: Console) -> State | None:
    """The state that was kept last, where it is of this run."""
    path = folder / STEPS
    if not path.exists():
        return None
    try:
        tensors, made = read(path, "denoise")
        why = "; ".join(differences(made.recipe, recipe))
    except (OSError, ValueError) as error:
        why = str(error)
    if why:
        say(console, f"denoise: begins anew, since what {STEPS} has is no part of this: {why}")
        return None
    assert made.latents is not None
    say(console, f"denoise: goes on after step {made.latents.steps}, which {STEPS} has")
    with transformer.scope():
        latents, estimate = (transformer.placed(jnp.asarray(tensors[name])) for name in ("latents", "estimate"))
    return State(latents, estimate, made.latents.steps)


def _shape(model: Model, recipe: Denoise) -> tuple[int, int, int, int, int]:
    cell, frames = model.spatial_compression, padded_latents(model, recipe.frames)
    channels = model.config("transformer")["out_channels"]
    return 1, frames, recipe.height // cell, recipe.width // cell, channels


def _noise(
    recipe: Denoise, schedule: Schedule, shape: tuple[int, ...], condition: Condition
) -> tuple[Any, Any, np.ndarray | None]:
    """The noise of the steps, what the first one takes, and the latents of an image beside it."""
    generator = torch.Generator().manual_seed(recipe.seed)
    clean = condition.draw(generator, recipe.dtype)  # as diffusers' pipelines do, before all else
    if recipe.noise == "torch":
        initial, noise = torch_noise(schedule, generator, shape, recipe.dtype)
    else:
        first, noise = jax.random.split(jax.random.key(recipe.seed))
        initial = np.asarray(jax.random.normal(first, shape, np.float32)) * schedule.sigma
    if condition.kind == "video":
        assert clean is not None
        assert initial is not None
        initial = (schedule.mix[0] * clean + schedule.mix[1] * initial / schedule.sigma) * schedule.sigma
    return noise, initial, clean if condition.kind == "image" else None


def _scheduler(model: Model, name: str | None) -> Any:
    import diffusers

    fields = model.config("scheduler")
    if name is not None and name not in SCHEDULERS:
        raise ValueError(f"scheduler {name!r}: expected {' or '.join(SCHEDULERS)}")
    kind = SCHEDULERS[name] if name else str(fields.get("_class_name"))
    if kind not in SCHEDULERS.values():
        raise ValueError(
            f"{model.folder / 'scheduler'} is a {kind}: expected {' or '.join(SCHEDULERS.values())}; name one of them "
            "with --scheduler ddim or dpm"
        )
    return getattr(diffusers, kind).from_config(fields)
