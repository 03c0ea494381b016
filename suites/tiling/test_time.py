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
from twinvae.bench.timing import bootstrapped, ratio, time_in_turn
from twinvae.tiles import tile_shapes


class Frame(NamedTuple):
    """Latents, how they are tiled (tiles in pixels), how often they are timed, and the bars: of the time, per backend,
    and of blending's share.
    """

    latents: tuple[int, int, int]  # frames, height, width
    tile: tuple[int, int]
    overlap: tuple[float, float]
    rounds: int
    time_limits: dict[str, float | None]
    share_limit: float | None


# A tiny network is over before its overhead is: what it takes is held to its baseline alone.
SMALL = Frame((3, 8, 20), (64, 64), (0, 1 / 4), 5, {}, None)
LARGE = Frame((3, 24, 40), (96, 160), (1 / 6, 1 / 5), 3, {"flax": 1.15}, 0.03)
ANY_BACKEND = 1.25


@pytest.fixture(autouse=True)
def _effort() -> None:
    """What is timed is compiled as users have it, with all effort (see the suites' fixture of the same name)."""
    jax.clear_caches()  # tests before this one have compiled tiles of the same shapes with little effort


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
    limit = spec.time_limits.get(backend, ANY_BACKEND) if model.is_large else None
    fields = {"case": f"{len(cells)} tiles, {work:.3g} times the pixels", "operation": "decode", "kind": "ratio",
              "shape": "x".join(map(str, latents.shape))}  # fmt: skip
    record(**fields, metric="time over untiled, for each pixel decoded", value=factor.value / work, unit="x",
           interval=(factor.low / work, factor.high / work), limit=limit, tolerance=1.25, runs=factor.runs,
           note=factor.note)  # fmt: skip
    record(**fields, metric="share of time spent blending", value=np.median(shares), limit=spec.share_limit,
           interval=bootstrapped(lambda rounds: np.median(shares[rounds], axis=-1), np.arange(len(shares))),
           tolerance=1.5, floor=0.03, runs=len(shares))  # fmt: skip


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
