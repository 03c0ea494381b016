"""A scheduler of diffusers as a table: each of its steps is affine, and is found out by asking it.

The scheduler stays diffusers' own (`CogVideoXDDIMScheduler`, `CogVideoXDPMScheduler`, with any of their settings): its
steps of unit vectors give the coefficients, and a random generator's state says how often it draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

SEED = 5  # of the draws that a scheduler is probed with
MOST_DRAWS = 4
PROBES = 4  # unit vectors: of the sample, the prediction and the estimate before, and one of none


@dataclass(frozen=True)
class Schedule:
    """What denoising does at each step, as plain arrays.

    The next sample is `next @ (sample, prediction, estimate before, noise)`, and the estimate of the clean latents that
    the next step takes is `estimate @ (sample, prediction)`.

    Attributes:
        timesteps: what the transformer is told, from the noisiest on.
        next: of each step.
        estimate: of each step.
        draws: how often diffusers draws noise at each step, of which the last draw counts.
        sigma: what noise is multiplied with before the first step.
        mix: of clean latents and of noise, in what the first step takes of a video that is denoised again.
    """

    timesteps: np.ndarray
    next: np.ndarray
    estimate: np.ndarray
    draws: np.ndarray
    sigma: float
    mix: tuple[float, float]

    def __len__(self) -> int:
        return len(self.timesteps)


def probe(scheduler: Any, steps: int, *, strength: float = 1.0) -> Schedule:
    """The table of a scheduler of diffusers.

    Args:
        scheduler: a `CogVideoXDDIMScheduler` or `CogVideoXDPMScheduler`; its timesteps are set.
        steps: of denoising, from pure noise.
        strength: of video to video, what part of the steps is done: the last ones.
    Raises:
        ValueError: another scheduler, a number of steps that it does not take, a strength beyond 0 to 1 or one that
            leaves no step, or settings with which a step is not affine, such as samples that are clipped.
    """
    from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler

    if not isinstance(scheduler, CogVideoXDDIMScheduler | CogVideoXDPMScheduler):
        raise ValueError(
            f"a scheduler of the class {type(scheduler).__name__}: expected CogVideoXDDIMScheduler or "
            "CogVideoXDPMScheduler; make one of them with `from_config` of this one's config"
        )
    most = scheduler.config["num_train_timesteps"]
    if not 1 <= steps <= most:
        raise ValueError(f"{steps} steps: expected 1 to {most}, as many as the model was trained with; 50 are usual")
    skipped = max(steps - int(steps * strength), 0)
    if not 0 < strength <= 1 or skipped == steps:
        raise ValueError(
            f"a strength of {strength} of {steps} steps: expected a share above 0, at most 1, that leaves one step at "
            f"least; take 0.8, or {1 / steps:.3g} and more"
        )
    scheduler.set_timesteps(steps)
    timesteps: Any = scheduler.timesteps[skipped:]
    rows = [_probed(scheduler, timesteps, place) for place in range(len(timesteps))]
    one, none = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    clean, noise = (float(scheduler.add_noise(*pair, timesteps[:1])[0]) for pair in ((one, none), (none, one)))
    return Schedule(
        timesteps.numpy().copy(),
        np.array([row[0] for row in rows]),
        np.array([row[1] for row in rows]),
        np.array([row[2] for row in rows]),
        float(scheduler.init_noise_sigma),
        (clean, noise),
    )


def guidance_scales(schedule: Schedule, guidance: float, dynamic: bool = False) -> np.ndarray:
    """The scale of guidance at each step.

    Args:
        dynamic: whether it varies over the steps, as diffusers' `use_dynamic_cfg` has it.
    """
    if not dynamic:
        return np.full(len(schedule), guidance, np.float64)
    steps = len(schedule)  # diffusers compares timesteps, which go to 999, with a number of steps: so do we
    turns = (((steps - int(t)) / steps) ** 5.0 for t in schedule.timesteps)
    return np.array([1 + guidance * (1 - math.cos(math.pi * turn)) / 2 for turn in turns])


def torch_noise(
    schedule: Schedule,
    seed: int | torch.Generator,
    shape: tuple[int, ...],
    dtype: str,
    *,
    initial: bool = True,
    last: int | None = None,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What diffusers' pipelines draw from one torch generator on the CPU, in their order.

    Args:
        seed: of the generator, or one that was drawn from before.
        shape: of the latents, [b, t, h, w, c].
        dtype: in which the pipeline computes, and draws.
        initial: whether the initial latents are the first draw; False where they were given.
        last: draw no further than this step.
    Returns:
        the initial latents, times the schedule's sigma, and the noise of every step, or None where none is drawn.
    """
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    kind = getattr(torch, dtype)
    batch, frames, height, width, channels = shape

    def draw() -> np.ndarray:
        drawn = torch.randn((batch, frames, channels, height, width), generator=generator, dtype=kind)
        wide = drawn.to(torch.promote_types(kind, torch.float32)).numpy()
        return np.moveaxis(wide, 2, -1)

    latents = draw() * schedule.sigma if initial else None
    if not schedule.draws.any():
        return latents, None
    drawn = [[draw() for _ in range(draws)][-1] for draws in schedule.draws[:last]]
    left = [np.zeros_like(drawn[0])] * (len(schedule) - len(drawn)) if drawn else []
    return latents, np.stack(drawn + left) if drawn else None


def _probed(scheduler: Any, timesteps: torch.Tensor, place: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Coefficients of the next sample and of the estimate, and the number of draws."""
    draws, unit = 0, torch.eye(PROBES, 3, dtype=torch.float64)

    def step(sample: torch.Tensor, prediction: torch.Tensor, before: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal draws
        generator, t = torch.Generator().manual_seed(SEED), timesteps[place]
        if hasattr(scheduler, "get_mult"):  # DPM
            old, back = (before, timesteps[place - 1]) if place else (None, None)
            found = scheduler.step(prediction, old, t, back, sample, generator=generator, return_dict=False)
        else:
            found = scheduler.step(prediction, t, sample, generator=generator, return_dict=False)
        draws = _draws(generator, sample.shape)
        return found[0], found[1]

    following, estimate = step(*unit.T)
    noise = _nth_draw(draws, unit.T[0].shape)
    scale = float(following[-1] / noise[-1]) if draws else 0.0
    of_next = [*(following - scale * noise)[:-1].tolist(), scale]
    of_estimate = estimate[:2].tolist()
    sample, prediction, before = torch.randn((3, PROBES), generator=torch.Generator().manual_seed(1)).double() * 3
    again, clean = step(sample, prediction, before)
    expected = of_next[0] * sample + of_next[1] * prediction + of_next[2] * before + scale * noise
    if not torch.allclose(again, expected) or not torch.allclose(
        clean, of_estimate[0] * sample + of_estimate[1] * prediction
    ):
        raise ValueError(
            f"step {place + 1} of {type(scheduler).__name__} is no sum of its inputs: with these settings it cannot be "
            "a table; expected clip_sample and thresholding off, as in CogVideoX's own scheduler_config.json"
        )
    return np.array(of_next), np.array(of_estimate), draws


def _draws(generator: torch.Generator, shape: torch.Size) -> int:
    """How often a generator of the probes' seed has been drawn from."""
    other = torch.Generator().manual_seed(SEED)
    for count in range(MOST_DRAWS + 1):
        if torch.equal(generator.get_state(), other.get_state()):
            return count
        torch.randn(shape, generator=other, dtype=torch.float64)
    raise ValueError(f"a scheduler that draws noise more than {MOST_DRAWS} times a step, or of another shape")


def _nth_draw(count: int, shape: torch.Size) -> torch.Tensor:
    generator, drawn = torch.Generator().manual_seed(SEED), torch.zeros(shape, dtype=torch.float64)
    for _ in range(count):
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
    return drawn
