"""Exact costs, which no load on the machine changes: what the programs of a call hold, and how many there are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import twinvae
from suites.speed.bars import AGAIN, COUNTS
from suites.speed.cases import compiled as compiled_cases
from suites.speed.clock import replay, replay_clock
from suites.speed.measure import compilation_values, program_values
from twinvae.bench.bars import hold
from twinvae.bench.effort import little_effort
from twinvae.bench.xla_cost import NETWORK, compiled, dispatches, stages
from twinvae.tiles import TileSettings

# Latents: a clip of one frame batch, one of three, and the same of frames four times as large, in tiles; then in tiles
# that overlap by half along their height, so that they are blended.
LENGTHS, CELLS = (2, 5), (2, 3)
BLENDED = 1 / 2

pytestmark = [pytest.mark.needs("step"), pytest.mark.benchmark(timer=replay_clock)]


@pytest.mark.cases("group, model, dtype, backend, mode", compiled_cases)
def test_a_call_costs_what_it_did(measured, contender, keep):
    for case, values in program_values(measured, contender).items():
        keep(case, values, [])
    if contender in measured.first:
        keep("compilations", compilation_values(measured, contender), [measured.first[contender].stages["compiling"]])


@pytest.mark.only(mode=("jit",), dtype=("float32",), large=False)
def test_a_program_is_compiled_once(model, backend, mode, dtype, record, benchmark):
    """Clips of several lengths, tiled and not, and all of them again."""
    with little_effort(), stages() as found:
        vae = twinvae.load(backend, **model.source, dtype=dtype)
        vae.tile_settings = TileSettings(*(model.config.spatial_compression * cells for cells in CELLS), 0, 0)
        decode_clips(vae)
        once = list(found)
        decode_clips(vae)
    vae.enable_tiling(tile_overlap_factor_height=BLENDED)
    in_tiles = dispatches(vae.decode, latents_of(vae, LENGTHS[-1], 2))
    case = "clips of several lengths, and in tiles"
    counts = {
        "programs compiled": compiled(once, NETWORK) or compiled(once),
        "programs run for a clip in tiles": in_tiles,
        AGAIN: compiled(found[len(once) :]),
    }
    hold(record, COUNTS, counts, case, operation="decode")
    replay(benchmark, [one.ended - one.began for one in once], case)


def decode_clips(vae: twinvae.VideoVAE) -> None:
    for frames, scale in (*((frames, 1) for frames in LENGTHS), (LENGTHS[-1], 2)):
        vae.use_tiling = scale > 1
        jax.block_until_ready(vae.decode(latents_of(vae, frames, scale)))


def latents_of(vae: twinvae.VideoVAE, frames: int, scale: int) -> jax.Array:
    height, width = CELLS
    return jnp.zeros((1, frames, scale * height, scale * width, vae.config.latent_channels))
