"""One layer at a time, by diffusers' class name."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from impl_torchax.environment import call
from impl_torchax.modules import as_torch, fitted, needed_cache, without_weights
from twinvae import arrays
from twinvae.registry import Layer, layer_class
from twinvae.torch.layers import LAYERS


def load_layer(
    class_name: str, init: dict[str, Any], tensors: dict[str, np.ndarray], *, dtype: str, jit: bool
) -> Layer:
    """Load one layer; see `twinvae.load_layer`.

    Raises:
        ValueError: unknown class or dtype, or a tensor that is missing, extra or misshapen.
    """
    target = arrays.checked_dtype(dtype)
    module = without_weights(layer_class(class_name, LAYERS), init)
    params = fitted(module, tensors, dtype)
    taken = inspect.signature(module.forward).parameters

    def run(params: dict[str, jax.Array], x: Any, inputs: dict[str, Any]) -> tuple[Any, Any]:
        out = call(
            module, as_torch(params), _channels_second(x), **{name: _channels_second(a) for name, a in inputs.items()}
        )
        out, cache = out if isinstance(out, tuple) else (out, None)
        return _channels_last(out), _channels_last(needed_cache(cache))

    run = jax.jit(run) if jit else run

    def layer(x: Any, temb: Any = None, zq: Any = None, conv_cache: Any = None) -> tuple[Any, Any]:
        given = {"temb": temb, "zq": zq, "conv_cache": conv_cache}
        inputs = {name: value for name, value in given.items() if value is not None}
        if unused := inputs.keys() - taken.keys():
            raise ValueError(f"{class_name} takes no {' and no '.join(sorted(unused))}: leave it out")
        with arrays.dtype_scope(target):
            x, inputs = jax.tree.map(lambda a: jnp.asarray(_as_array(a), target), (x, inputs))
            out, cache = run(params, x, inputs)
        return out, cache or None if isinstance(cache, dict) else cache

    return layer


def _as_array(array: Any) -> Any:
    return array if isinstance(array, jax.Array) else arrays.to_numpy(array)


def _channels_second(tree: Any) -> Any:
    """To torch's layout; a time embedding, [b, c], has it already."""
    return jax.tree.map(lambda array: jnp.moveaxis(array, -1, 1), tree)


def _channels_last(tree: Any) -> Any:
    return jax.tree.map(lambda array: jnp.moveaxis(array, 1, -1), tree)
