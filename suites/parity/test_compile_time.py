"""Compiling does not grow with frames: 49 frames are decoded by the programs of 17."""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from suites.parity.bars import COMPILE_TIME, PROGRAMS
from twinvae.bench.bars import hold
from twinvae.bench.xla_cost import compiled, stages

pytestmark = pytest.mark.needs("step")

SHORT, LONG = 5, 13  # latent frames: 17 and 49 frames of video
# Of each, in turn; the fastest counts, which other load has stretched least. More than the least only while the limit
# is passed.
COLD_RUNS, MOST_COLD_RUNS = 2, 6


@pytest.mark.compiles
@pytest.mark.only(mode=("jit",), dtype=("float32",), large=False)
def test_compiling_does_not_grow_with_frames(vae, model, record):
    latents = {
        frames: np.zeros((1, frames, 1, 2, model.config.latent_channels), np.float32) for frames in (SHORT, LONG)
    }
    programs: dict[int, int] = {}
    seconds: dict[int, list[float]] = {SHORT: [], LONG: []}
    growth, runs, limit = float("inf"), 0, COMPILE_TIME["49 frames over 17"].limit
    while runs < COLD_RUNS or (growth > limit and runs < MOST_COLD_RUNS):
        for frames, given in latents.items():
            jax.clear_caches()
            with stages() as found:
                cold = _processor_seconds(vae, given)
            programs[frames] = compiled(found)
            seconds[frames].append(cold - _processor_seconds(vae, given))
        growth, runs = min(seconds[LONG]) / min(seconds[SHORT]), runs + 1
    vae.decode(jnp.asarray(latents[LONG]))
    with stages() as found:
        vae.decode(jnp.asarray(latents[LONG]))

    counts = {
        "programs for 49 frames less those for 17": programs[LONG] - programs[SHORT],
        "programs compiled when called again": compiled(found),
    }
    hold(record, PROGRAMS, counts, "compile time", operation="decode")
    times = {"49 frames over 17": growth}
    hold(record, COMPILE_TIME, times, "compile time", operation="decode", kind="ratio", runs=runs)


def _processor_seconds(vae, latents) -> float:
    """Processor time of a call, which other load on the machine stretches less than the clock's."""
    start = time.process_time()
    jax.block_until_ready(vae.decode(latents))
    return time.process_time() - start
