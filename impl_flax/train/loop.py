"""A training from its first step, or from where it was stopped, to its last."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from impl_flax.train.beginning import first_tensors, fitted_tensors
from impl_flax.train.checkpoints import Checkpoints
from impl_flax.train.clips import Frames, check, crops
from impl_flax.train.recipes import Recipe, Stage
from impl_flax.train.step import State, abstract_state, begin, in_torch_layout, make_step, master_dtype
from twinvae import arrays
from twinvae.tensors import Tensors

LOG = "log.jsonl"
EVERY = 25  # steps between lines of the log
FITTED_ON = 24  # crops that the first weights are fitted on


def train(
    recipe: Recipe,
    clips: Mapping[str, Frames],
    folder: Path,
    *,
    first: Tensors | None = None,
    mesh: Mesh | None = None,
    save_every: float = 120.0,
    say: Callable[[dict[str, Any]], None] = lambda line: None,
) -> State:
    """Train, and give the state after the last step. Called again with the same folder, it goes on, bit for bit.

    Args:
        clips: to train on; what is held out is not among them.
        folder: of checkpoints and of the log, a line of JSON every 25 steps.
        first: weights to begin with, by diffusers' name; None: fitted to the clips.
        save_every: seconds between checkpoints.
        say: is told each line of the log.
    Raises:
        KeyboardInterrupt: when it is interrupted; what was done by then is kept.
        ValueError: clips that are too few, too short or too small, or a folder of another recipe.
        FloatingPointError: the loss of a step is no number; the last checkpoint is of before.
        OSError: a checkpoint cannot be written; the last one is good.
    """
    for stage in recipe.stages:
        check(clips, stage)
    with arrays.dtype_scope(master_dtype(recipe)):
        checkpoints = Checkpoints(folder, recipe)
        try:
            return _run(recipe, clips, folder, checkpoints, first, mesh, save_every, say)
        finally:
            checkpoints.close()


def _run(
    recipe: Recipe,
    clips: Mapping[str, Frames],
    folder: Path,
    checkpoints: Checkpoints,
    first: Tensors | None,
    mesh: Mesh | None,
    save_every: float,
    say: Callable[[dict[str, Any]], None],
) -> State:
    state = checkpoints.last(abstract_state(recipe))
    if state is None:
        state = begin(recipe, first_weights(recipe, clips) if first is None else first)
    run, begun, saved, started = make_step(recipe, mesh), int(state.step), monotonic(), monotonic()
    kept, numbers = begun, {}
    for number in range(begun, recipe.steps):
        try:
            video = jnp.asarray(crops(clips, recipe.stage_of(number), recipe.seed, number))
            state, numbers = run(state, video)
            value = float(numbers["loss"])
        except KeyboardInterrupt:
            # A step that was stopped may have taken its state's place; one that was done is as good as any.
            if not state.step.is_deleted() and int(state.step) != kept and math.isfinite(float(numbers["loss"])):
                checkpoints.save(state)
            raise
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss of step {number + 1} is {value}: stopped; the last checkpoint in {folder} is of before it. "
                "Take a smaller learning rate, or float32"
            )
        done = number + 1
        if done % EVERY == 0 or done == recipe.steps:
            rate = (monotonic() - started) / (done - begun)
            line = {"step": done, **{name: float(one) for name, one in numbers.items()},
                    "seconds": round(rate, 4), "left": round(rate * (recipe.steps - done), 1)}  # fmt: skip
            with (folder / LOG).open("a") as file:
                file.write(json.dumps(line) + "\n")
            say(line)
        if monotonic() - saved >= save_every or done == recipe.steps:
            checkpoints.save(state)
            saved, kept = monotonic(), done
    return state


def first_weights(recipe: Recipe, clips: Mapping[str, Frames]) -> Tensors:
    """Fitted to crops of the first stage's size."""
    stage, together = recipe.stages[0], 2**recipe.config.temporal_levels
    frames = 1 + (stage.frames - 1) // together * together
    if frames == 1:
        return first_tensors(recipe.config, recipe.seed)
    sized = Stage(steps=1, clips=FITTED_ON, frames=frames, height=stage.height, width=stage.width)
    taken = crops(clips, sized, recipe.seed, recipe.steps)  # of a step that is not taken
    return fitted_tensors(recipe.config, recipe.seed, taken.astype(np.float32) / 127.5 - 1)


def tensors_of(recipe: Recipe, state: State) -> Tensors:
    """What is kept of a training: the weights' average, by diffusers' name, in float32."""
    return {name: tensor.astype(np.float32) for name, tensor in in_torch_layout(recipe, state.average).items()}
