"""What is trained in the suite: recipes and clips, small ones that run here and large ones for compilers."""

from __future__ import annotations

from typing import Any

from impl_flax.train.recipes import Recipe, Stage, recipes
from twinvae.bench.aot.compilers import chip_of
from twinvae.bench.models import TRAINED, Model
from twinvae.bench.options import Options
from twinvae.config import preset_config

BACKEND = "flax"  # the backend that is trained
STEP = Stage(steps=1, clips=1, frames=9, height=64, width=96)
CURVE = Stage(steps=20, clips=1, frames=9, height=32, width=48)
RATE = 1e-3  # at which 20 steps go somewhere

# Of the full architecture, in bfloat16 beside float32 weights, for compilers: batches with remat, one clip without.
LARGE, FRAMES, SIDE = "cogvideox-2b", 17, 256
PROGRAMS = ((1, False), (1, True), (2, True), (4, True))


def recipe(model: Model, stage: Stage, **changes: Any) -> Recipe:
    """The recipe of `small` for another model and stage, whose learning rate needs no steps to warm up."""
    changes = {"config": model.config, "stages": (stage,), "learning_rate": RATE, "warmup": 0} | changes
    return Recipe(**(recipes()[TRAINED.label].model_dump() | changes))


def large(clips: int, remat: bool) -> Recipe:
    stage = Stage(steps=1, clips=clips, frames=FRAMES, height=SIDE, width=SIDE)
    return Recipe(config=preset_config(LARGE), stages=(stage,), compute="bfloat16", remat=remat)


def trained(options: Options) -> list[dict[str, Any]]:
    """The preset that was trained, whatever others were named."""
    return here(options, "float64")


def timed(options: Options) -> list[dict[str, Any]]:
    """The same in float32, where times are judged."""
    return [] if options.one_round else here(options, "float32")


def seeded(options: Options) -> list[dict[str, Any]]:
    """Small models with seeded weights."""
    models = [model for model in options.models if not model.is_large]
    return [{"model": model} | row for model in models for row in here(options, "float64")]


def here(options: Options, dtype: str) -> list[dict[str, Any]]:
    """What this machine computes, and no compiler of another."""
    chosen = chip_of(options.platform) is None and BACKEND in options.backends and dtype in options.dtypes
    return [{"backend": BACKEND, "dtype": dtype}] if chosen else []


def asked(options: Options) -> list[dict[str, Any]]:
    """Programs for the compiler of a chip."""
    chosen = chip_of(options.platform) and BACKEND in options.backends and "bfloat16" in options.dtypes
    return [{"clips": clips, "remat": remat, "backend": BACKEND, "dtype": "bfloat16"}
            for clips, remat in (PROGRAMS if chosen else ())]  # fmt: skip
