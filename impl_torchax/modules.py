"""diffusers' modules without weights of their own, and the tensors that go into them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from impl_torchax.lowerings import kernel_first, kernel_last
from twinvae import arrays
from twinvae.tensors import check_tensors


def without_weights(cls: type[torch.nn.Module], init: dict[str, Any]) -> torch.nn.Module:
    """Make a module on the meta device, in evaluation mode."""
    with torch.device("meta"):
        return cls(**init).eval()


def fitted(module: torch.nn.Module, tensors: dict[str, np.ndarray], dtype: str) -> dict[str, jax.Array]:
    """The module's tensors as JAX arrays of `dtype`, kernels in the order that convolutions take them in.

    Raises:
        ValueError: a tensor is missing, extra, misshapen or not of floats.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    check_tensors(expected, tensors, type(module).__name__, "Pass the state_dict of a module made as this one was")
    target = arrays.checked_dtype(dtype)
    with arrays.dtype_scope(target):
        tensors_in = {name: jnp.asarray(tensors[name].astype(target)) for name in expected}
        return {name: kernel_last(array) if array.ndim >= 4 else array for name, array in tensors_in.items()}


def as_torch(params: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Parameters, or their gradients, in torch's layouts."""
    return {name: kernel_first(array) if array.ndim >= 4 else array for name, array in params.items()}


def needed_cache(cache: Any) -> Any:
    """Drop the entries that diffusers stores for 1x1x1 convolutions and never reads: each holds a whole input.

    Only `conv_y` and `conv_b` of a spatially conditioned norm are such convolutions. What is left empty goes too.
    """
    if not isinstance(cache, dict):
        return cache
    kept = {name: needed_cache(entry) for name, entry in cache.items() if name not in ("conv_y", "conv_b")}
    return {name: entry for name, entry in kept.items() if not (isinstance(entry, dict) and not entry)}
