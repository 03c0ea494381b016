"""The programs of the full architecture's step that compilers are asked for."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from impl_flax.train.recipes import Recipe
from impl_flax.train.step import abstract_state, make_step
from suites.training.cases import LARGE
from twinvae.bench.aot.compilers import sharding_on
from twinvae.jax.chips import CHIPS
from twinvae.jax.compiling import tracing_for


def lowered(recipe: Recipe, chip: str) -> jax.stages.Lowered:
    """A step for one device of a chip."""
    stage, sharding = recipe.stages[0], sharding_on(chip)
    clips = jax.ShapeDtypeStruct((stage.clips, stage.frames, stage.height, stage.width, 3), jnp.uint8)
    given = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), (abstract_state(recipe), clips)
    )
    kind = CHIPS[chip].kind
    with tracing_for(kind):
        return make_step(recipe, platform=kind).lower(*given)


def name(recipe: Recipe) -> str:
    """What a program is called in the store."""
    stage = recipe.stages[0]
    kept = "with remat" if recipe.remat else "all kept"
    return f"a step of {stage.clips}x{stage.frames}x{stage.height}x{stage.width}, {kept}, {LARGE} {recipe.compute}"
