"""Parameters between diffusers' names and layouts and those of the NNX modules."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from twinvae.tensors import check_tensors

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
    expected = {
        name: (*param.shape[:-3:-1], *param.shape[:-2]) if _is_kernel(path) else param.shape
        for name, (path, param) in wanted.items()
    }
    check_tensors(expected, tensors, "this architecture", "Pass exactly the tensors of diffusers' module")
    filled = []
    for name, (path, param) in wanted.items():
        tensor = np.moveaxis(tensors[name], (0, 1), (-1, -2)) if _is_kernel(path) else tensors[name]
        filled.append((path, param.replace(jnp.asarray(tensor, dtype))))
    return nnx.from_flat_state(filled)
