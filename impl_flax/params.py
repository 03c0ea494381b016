"""Parameters between diffusers' names and layouts and those of the NNX modules."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

# A module's path is diffusers' own; its parameters are named as in Flax.
TORCH_NAMES = {"kernel": "weight", "scale": "weight", "bias": "bias"}


def torch_name(path: tuple[Any, ...]) -> str:
    """`("conv1", "conv", "kernel")` is "conv1.conv.weight"."""
    *module, parameter = path
    return ".".join(map(str, [*module, TORCH_NAMES[parameter]]))


def _is_kernel(path: tuple[Any, ...]) -> bool:
    return path[-1] == "kernel"


def to_torch_layout(params: nnx.State) -> dict[str, Array]:
    """Every tensor by diffusers' name; kernels [*window, in, out] become [out, in, *window]."""
    return {
        torch_name(path): jnp.moveaxis(param[...], (-1, -2), (0, 1)) if _is_kernel(path) else param[...]
        for path, param in nnx.to_flat_state(params)
    }


def fill(abstract: nnx.State, tensors: dict[str, np.ndarray], dtype: np.dtype) -> nnx.State:
    """Give the parameters of a module their values; kernels [out, in, *window] become [*window, in, out].

    Args:
        abstract: the module's state, shapes without values.
        tensors: by diffusers' name, in diffusers' layout.
    Raises:
        ValueError: a tensor is missing, extra or misshapen.
    """
    wanted: dict[str, Any] = {torch_name(path): (path, param) for path, param in nnx.to_flat_state(abstract)}
    if wanted.keys() != tensors.keys():
        missing, extra = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
        raise ValueError(f"tensors do not fit the layer: missing {missing or 'none'}, unexpected {extra or 'none'}")
    filled = []
    for name, (path, param) in wanted.items():
        tensor = np.moveaxis(tensors[name], (0, 1), (-1, -2)) if _is_kernel(path) else tensors[name]
        if tensor.shape != param.shape:
            raise ValueError(
                f"tensor {name} has shape {tensors[name].shape}, which is {tensor.shape} here: expected {param.shape}"
            )
        filled.append((path, param.replace(jnp.asarray(tensor, dtype))))
    return nnx.from_flat_state(filled)
