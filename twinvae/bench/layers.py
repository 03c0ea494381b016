"""A layer alone: its tensors and inputs drawn at random, and what it gives for a first and a later frame batch."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch

from twinvae.arrays import DTYPES
from twinvae.registry import Layer
from twinvae.torch.reference import LAYERS

UNUSED = ("conv_y", "conv_b")  # convolutions over one frame: diffusers stores caches for them, and never reads them
FIRST, LATER = "first frame batch", "later frame batch"


def drawn_tensors(class_name: str, init: dict[str, Any], dtype: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Every tensor at random, norms and biases as well, so that outputs have a magnitude of about 1.

    Raises:
        ValueError: unknown class.
    """
    if class_name not in LAYERS:
        raise ValueError(f"unknown layer class {class_name!r}: choose one of {', '.join(LAYERS)}")
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in LAYERS[class_name](**init).state_dict().items()}
    drawn = {
        name: rng.standard_normal(shape) / np.sqrt(prod(shape[1:]))
        if len(shape) > 1
        else rng.uniform(0.5, 1.5, shape) * (1 if name.endswith("weight") else rng.choice([-1, 1], shape))
        for name, shape in shapes.items()
    }
    return rounded(drawn, dtype)


def input_channels(init: dict[str, Any]) -> int:
    """The channels of a layer's input, by what diffusers calls them."""
    return init.get("in_channels") or init.get("f_channels") or init["num_channels"]


def latent_channels(init: dict[str, Any]) -> int:
    """The channels of the latents that condition a layer."""
    return init.get("zq_channels") or init["spatial_norm_dim"]


def rounded(tree: Any, dtype: str) -> Any:
    """Values that the dtype can hold exactly: what is left of an error then comes from computing alone."""
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {name: rounded(part, dtype) for name, part in tree.items()}
    return np.asarray(tree).astype(DTYPES[dtype])


def used_cache(cache: Any, init: dict[str, Any]) -> Any:
    """A conv cache without the entries of convolutions over one frame, which nothing reads."""
    if isinstance(cache, dict):
        parts = {name: used_cache(part, init) for name, part in cache.items() if name not in UNUSED}
        return {name: part for name, part in parts.items() if part is not None} or None
    return None if init.get("kernel_size") in (1, (1, 3, 3)) or not np.size(cache) else cache


def parts_of(layer: Layer, given: dict[str, Any], init: dict[str, Any], carried: Any = None) -> dict[str, np.ndarray]:
    """What a call gave by name: the output and the conv cache's arrays, of a later frame batch where one is carried."""
    output, cache = layer(**given) if carried is None else layer(**given, conv_cache=carried)
    call = FIRST if carried is None else LATER
    parts = {f"{call}: output": np.asarray(output)}

    def walk(cache: Any, path: str) -> None:
        if isinstance(cache, dict):
            for name, part in cache.items():
                walk(part, f"{path} {name}")
        elif cache is not None:
            parts[path] = np.asarray(cache)

    walk(used_cache(cache, init), f"{call}: cache")
    return parts
