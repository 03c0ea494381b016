"""What tiling costs: time for each pixel decoded, and the share of it that blending takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import twinvae
from suites.tiling.bars import BLENDING, BLENDS, LARGE_BLENDS, LARGE_COST, SMALL_COST, TIME
from twinvae.bench.bars import hold
from twinvae.bench.timing import bootstrapped, ratio, time_in_turn
from twinvae.tiles import tile_shapes

pytestmark = pytest.mark.needs("tiling", "step")


class Frame(NamedTuple):
    """Latents, how they are tiled (tiles in pixels), and how often they are timed."""

    latents: tuple[int, int, int]  # frames, height, width
    tile: tuple[int, int]
    overlap: tuple[float, float]
    rounds: int


SMALL = Frame((3, 8, 20), (64, 64), (0, 1 / 4), 5)
LARGE = Frame((3, 24, 40), (96, 160), (1 / 6, 1 / 5), 3)


@pytest.fixture(autouse=True)
def _effort() -> None:
    """What is timed is compiled as users have it, with all effort (see the suites' fixture of the same name)."""
    jax.clear_caches()  # tests before this one have compiled tiles of the same shapes with little effort


@pytest.mark.compiles
@pytest.mark.only(mode=("jit",), dtype=("float32",), asked=True)
def test_tiling_costs_little_more_than_its_overlap(vae, model, backend, dtype, record, options):
    spec = LARGE if model.is_large else SMALL
    latents = np.random.default_rng(options.seed).normal(size=(1, *spec.latents, model.config.latent_channels))
    latents = jnp.asarray(latents, jnp.float32)
    vae.enable_tiling(*spec.tile, *spec.overlap)
    cells = tile_shapes(vae.tile_settings.grid("decode", *spec.latents[1:], model.config.spatial_compression))
    work = sum(height * width for height, width in cells) / np.prod(spec.latents[1:])

    def run(tiled: bool) -> None:
        vae.use_tiling = tiled
        jax.block_until_ready(vae.decode(latents))

    run(True), run(False)  # compile
    timings = time_in_turn({"tiled": lambda: run(True), "untiled": lambda: run(False)}, spec.rounds)
    factor = ratio(timings, "tiled", "untiled")
    shares = np.array([blending_share(vae, lambda: run(True)) for _ in range(max(2, spec.rounds // 2))])
    cost = LARGE_COST.get(backend, LARGE_COST["other"]) if model.is_large else SMALL_COST
    fields = {"case": f"{len(cells)} tiles, {work:.3g} times the pixels", "operation": "decode", "kind": "ratio",
              "shape": "x".join(map(str, latents.shape))}  # fmt: skip
    interval = factor.low / work, factor.high / work
    hold(record, cost, {TIME: factor.value / work}, **fields, interval=interval, runs=factor.runs, note=factor.note)
    interval = bootstrapped(lambda rounds: np.median(shares[rounds], axis=-1), np.arange(len(shares)))
    blends = LARGE_BLENDS if model.is_large else BLENDS
    hold(record, blends, {BLENDING: np.median(shares)}, **fields, interval=interval, runs=len(shares))


def blending_share(vae: twinvae.VideoVAE, run: Callable[[], None]) -> float:
    """The time that a run spends in blends, over all of its time; nothing else is computed beside a blend."""
    blend, spent = vae.blend, 0.0

    def timed(tile, neighbour, extent, axis):
        nonlocal spent
        jax.block_until_ready((tile, neighbour))
        start = time.perf_counter()
        out = jax.block_until_ready(blend(tile, neighbour, extent, axis))
        spent += time.perf_counter() - start
        return out

    vae.blend = timed
    try:
        began = time.perf_counter()
        run()
        return spent / (time.perf_counter() - began)
    finally:
        del vae.blend
