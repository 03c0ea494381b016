"""The end of a pipeline on a picture: a clip's latents, noised, denoised by the velocity that is right, and decoded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stages.sampling import begin, sample
from stages.schedule import probe
from suites.generation.bars import TRAINED
from suites.generation.conftest import SEED, STEPS
from suites.generation.tiny import SCHEDULER
from twinvae.bench import metrics
from twinvae.bench.bars import check_shapes, hold, measured
from twinvae.registry import REFERENCE

CLIP = (9, 64, 96)
AT_ONCE = 1 / STEPS  # of the steps, the last one, which leaves no noise


class Knowing:
    """In the place of a transformer: predicts one velocity, whatever it is given."""

    dtype = "float32"
    params = None

    def __init__(self, velocity: np.ndarray) -> None:
        self.velocity = velocity
        self.config = {"in_channels": velocity.shape[-1], "text_embed_dim": 1}

    def scope(self) -> Any:
        return contextlib.nullcontext()

    def placed(self, array: jax.Array) -> jax.Array:
        return array

    def sinusoids(self, timesteps: Any) -> jax.Array:
        return jnp.zeros((len(timesteps), 1))

    def positions(self, _shape: tuple[int, ...]) -> None:
        return None

    def program(self, function: Callable[..., Any], **static: Any) -> Callable[..., Any]:
        return partial(function, lambda *_: jnp.asarray(self.velocity), **static)


@pytest.mark.needs("moments")
@pytest.mark.only(mode=("jit",), dtype=("float32",))
@pytest.mark.parametrize("scheduler", ["CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"])
def test_a_clip_comes_back_from_noise_by_the_velocity_that_is_right(
    scheduler, backend, dtype, trained, film, once, record, exhibit
):
    def of_diffusers() -> dict[str, np.ndarray]:
        vae = trained(REFERENCE, dtype)
        mean = np.asarray(vae.encode(film(*CLIP)).mean)
        return {"latents": mean, "video": np.asarray(vae.decode(mean))}

    expected, vae = once((__name__, dtype), of_diffusers), trained(backend, dtype)
    scale = vae.config.scaling_factor
    clean = np.asarray(vae.encode(film(*CLIP)).mean) * scale
    noise = np.random.default_rng(SEED).standard_normal(clean.shape).astype(np.float32)
    schedule = probe(getattr(diffusers, scheduler)(**SCHEDULER), STEPS, strength=AT_ONCE)
    keeps, adds = schedule.mix  # which are the cosine and the sine of one angle
    knowing: Any = Knowing(keeps * noise - adds * clean)
    given = {"text": np.zeros((1, 1, 1), np.float32), "noise": np.zeros((len(schedule), *clean.shape), np.float32)}
    done = sample(knowing, schedule, begin(keeps * clean + adds * noise, knowing), **given)
    latents = np.asarray(done.latents) / scale
    found = {"latents": latents, "video": np.asarray(vae.decode(latents))}
    check_shapes(found, expected)
    kind = "DPM" if "DPM" in scheduler else "DDIM"
    values = measured({"max_abs": TRAINED["max_abs"]}, found, expected)
    values["psnr"] = metrics.psnr(found["video"], film(*CLIP))
    hold(record, TRAINED, values, f"from noise, {kind}")
    if kind == "DDIM":
        shown, wanted = (np.clip(side["video"][0] / 2 + 0.5, 0, 1) for side in (found, expected))
        exhibit("frames, small", {"frame": shown[CLIP[0] // 2], "expected": wanted[CLIP[0] // 2],
                                  "largest": np.abs(shown - wanted).max(axis=(1, 2, 3))}, caption="small")  # fmt: skip
