"""Weights of a torch module from files or from another module, put onto devices one after another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from jax.sharding import Mesh, NamedSharding, Sharding, SingleDeviceSharding

from twinvae.arrays import checked_dtype, to_numpy
from twinvae.checkpoint import CONFIG_FILE, stored_tensors
from twinvae.jax.tokens import weight_spec
from twinvae.tensors import Described, check_tensors


class Weight(NamedTuple):
    """A weight as a model takes it.

    Args:
        names: of one tensor, or of those that are stacked along a new first axis.
        shape: of the stack, too.
        stacked: whether it is one.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    stacked: bool

    def sharding(self, mesh: Mesh | None) -> Sharding:
        if mesh is None:
            return SingleDeviceSharding(jax.devices()[0])
        return NamedSharding(mesh, weight_spec(mesh, self.shape, self.stacked))


def stacked(shapes: Mapping[str, tuple[int, ...]], blocks: str, alone: Sequence[str] = ()) -> dict[str, Weight]:
    """A model's weights: those of all its blocks are stacked, and named without the block's number.

    Args:
        shapes: of each tensor, blocks in their order.
        blocks: what the names of blocks' tensors begin with, before the number.
        alone: the rest of the names of tensors that one block has, and no other.
    """
    found: dict[str, Weight] = {}
    for name, shape in shapes.items():
        number, _, rest = name.removeprefix(blocks).partition(".")
        if not name.startswith(blocks) or name.removeprefix(blocks) in alone:
            found[name] = Weight((name,), shape, False)
        else:
            names = (*(found[blocks + rest].names if int(number) else ()), name)
            found[blocks + rest] = Weight(names, (len(names), *shape), True)
    return found


def read_config(folder: str | Path, class_name: str) -> dict[str, Any]:
    """The fields of a local folder's config.json.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: no JSON object, or the config of another class.
    """
    path = Path(folder).expanduser() / CONFIG_FILE
    try:
        fields = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"{path} not found: expected a local folder of {class_name} with config.json beside its safetensors; of a "
            "whole pipeline, name the subfolder transformer or text_encoder"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    named = fields.get("_class_name", fields.get("architectures")) if isinstance(fields, dict) else type(fields)
    if named not in (class_name, [class_name]):
        raise ValueError(f"{path} is the config of {named}: expected {class_name}; name that model's folder")
    return fields


class ModuleTensor:
    """A torch module's tensor, as those of a file are."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.shape = tuple(tensor.shape)
        self.dtype = to_numpy(torch.empty(0, dtype=tensor.dtype)).dtype
        self._tensor = tensor

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        return to_numpy(self._tensor[index])


def tensors_of(source: str | Path | torch.nn.Module, weights_file: str) -> Mapping[str, Any]:
    """The tensors of a folder or of a module, none of which is read yet.

    Raises:
        FileNotFoundError, OSError, ValueError: see `stored_tensors`.
    """
    if isinstance(source, torch.nn.Module):
        return {name: ModuleTensor(tensor) for name, tensor in source.state_dict().items()}
    return stored_tensors(Path(source).expanduser(), weights_file)


def check(weights: Mapping[str, Weight], tensors: Mapping[str, Described], whose: str) -> None:
    """Check names, shapes and dtypes.

    Raises:
        ValueError: a missing, extra, misshapen or non-float tensor.
    """
    expected = {name: weight.shape[int(weight.stacked) :] for weight in weights.values() for name in weight.names}
    check_tensors(expected, tensors, whose, f"Use the {CONFIG_FILE} that was saved with these weights")


def place(
    weights: Mapping[str, Weight], tensors: Mapping[str, Any], dtype: str, mesh: Mesh | None
) -> dict[str, jax.Array]:
    """Weights on their devices, each read by the part that a device takes: a host has one of them at a time."""
    placed = {}
    for name, weight in weights.items():
        parts = [tensors[each] for each in weight.names]
        placed[name] = jax.make_array_from_callback(
            weight.shape, weight.sharding(mesh), _reader(parts, weight, checked_dtype(dtype))
        ).block_until_ready()
    return placed


def _reader(parts: Sequence[Any], weight: Weight, dtype: np.dtype) -> Any:
    def read(index: tuple[slice, ...]) -> np.ndarray:
        if not weight.stacked:
            return np.asarray(parts[0][index or (...,)], dtype)
        sides = (range(*one.indices(size)) for one, size in zip(index, weight.shape, strict=True))
        out = np.empty([len(side) for side in sides], dtype)
        for place, part in enumerate(parts[index[0]]):
            out[place] = part[index[1:]]
        return out

    return read
