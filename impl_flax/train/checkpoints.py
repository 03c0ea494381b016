"""Checkpoints of a training under way: whole or not there, the last good ones kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from impl_flax.train.recipes import Recipe
from impl_flax.train.step import State

KEPT = 2
RECIPE = "recipe.json"


class Checkpoints:
    """The checkpoints in a folder, which belong to one recipe.

    Raises:
        ValueError: the folder holds those of another recipe.
    """

    def __init__(self, folder: Path, recipe: Recipe):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, described = folder.absolute(), folder / RECIPE
        if described.exists():
            found = Recipe.model_validate_json(described.read_text())
            if other := [name for name in Recipe.model_fields if getattr(found, name) != getattr(recipe, name)]:
                raise ValueError(
                    f"{folder} holds checkpoints of another recipe: {_difference(found, recipe, other[0])}; continue "
                    "with that recipe, or name another folder"
                )
        else:
            described.write_text(recipe.model_dump_json(indent=1) + "\n")
        options = ocp.CheckpointManagerOptions(max_to_keep=KEPT, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(self.folder / "checkpoints", options=options)

    def save(self, state: State) -> None:
        """Write a checkpoint beside the earlier ones, of which the oldest then goes.

        Raises:
            OSError: it cannot be written; the earlier ones are as they were.
        """
        arrays = jax.tree.map(np.asarray, state)
        try:
            self._manager.save(int(state.step), args=ocp.args.StandardSave(_as_tree(arrays)))
        except Exception as error:
            raise OSError(
                f"the checkpoint of step {int(state.step)} could not be written to {self.folder} "
                f"({type(error).__name__}: {error!s:.200}); the one of step {self._manager.latest_step()} is good: "
                "make room, and start again with the same folder"
            ) from error

    def last(self, like: State) -> State | None:
        """The last good state, in the arrays of `like`; None where there is none."""
        step = self._manager.latest_step()
        if step is None:
            return None
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, _as_tree(like))
        found = self._manager.restore(step, args=ocp.args.StandardRestore(abstract))
        return jax.tree.unflatten(jax.tree.structure(like), [jnp.asarray(found[key]) for key in _as_tree(like)])

    def close(self) -> None:
        self._manager.close()


def _as_tree(state: Any) -> dict[str, Any]:
    """Leaves by their place."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def _difference(found: Recipe, recipe: Recipe, name: str) -> str:
    return f"found {name} {getattr(found, name)!s:.120}, expected {getattr(recipe, name)!s:.120}"
