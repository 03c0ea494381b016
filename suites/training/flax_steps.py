"""A recipe's steps by the product's own program, and what of it is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from impl_flax.train.recipes import Recipe
from impl_flax.train.step import (
    State,
    abstract_state,
    begin,
    in_torch_layout,
    make_step,
    master_dtype,
    moments,
    noise_of,
)
from twinvae import arrays
from twinvae.jax.memory import peak_bytes
from twinvae.tensors import Tensors


class Training:
    """The program of a recipe's step, compiled once, and what it needs."""

    def __init__(self, recipe: Recipe):
        self.recipe, stage = recipe, recipe.stages[0]
        shape = (stage.clips, stage.frames, stage.height, stage.width, 3)
        with arrays.dtype_scope(master_dtype(recipe)):
            given = abstract_state(recipe), jax.ShapeDtypeStruct(shape, np.uint8)
            self.program = make_step(recipe).lower(*given).compile()
        self.peak = peak_bytes(self.program)

    def run(self, tensors: Mapping[str, np.ndarray], clips: Sequence[np.ndarray]) -> Steps:
        """Steps from these weights on these clips."""
        with arrays.dtype_scope(master_dtype(self.recipe)):
            state, losses = begin(self.recipe, tensors), []
            for video in clips:
                state, numbers = self.program(state, jnp.asarray(video))
                losses.append(float(numbers["loss"]))
            return Steps(self.recipe, np.array(losses), state)


class Steps(NamedTuple):
    """What steps came to; tensors are in diffusers' layout."""

    recipe: Recipe
    losses: np.ndarray
    state: State

    @property
    def weights(self) -> Tensors:
        return in_torch_layout(self.recipe, self.state.weights)

    @property
    def first(self) -> Tensors:
        return in_torch_layout(self.recipe, moments(self.state, "mu"))

    @property
    def second(self) -> Tensors:
        return in_torch_layout(self.recipe, moments(self.state, "nu"))


def noises(recipe: Recipe, count: int) -> list[np.ndarray]:
    """The noise of a recipe's first steps."""
    stage = recipe.stages[0]
    shape = (stage.clips, stage.frames, stage.height, stage.width, 3)
    with arrays.dtype_scope(master_dtype(recipe)):
        return [np.asarray(noise_of(recipe, jnp.asarray(step), shape)) for step in range(count)]


def farthest(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> tuple[float, str]:
    """The largest error of a tensor over its norm, and which it is."""
    apart = {name: np.linalg.norm(found[name] - one) / np.linalg.norm(one) for name, one in expected.items()}
    worst = max(apart, key=lambda name: apart[name])
    return float(apart[worst]), worst
