"""Seeded weights: the same for every backend, and the same whatever else is drawn."""

from __future__ import annotations

import operator
import zlib
from concurrent.futures import ThreadPoolExecutor
from math import prod, sqrt

import numpy as np

from twinvae.config import VAEConfig
from twinvae.tensors import Tensors, tensor_shapes

SPREAD = 0.3  # half the width of the uniform range of norm weights (around 1) and of every bias


def seeded_tensors(config: VAEConfig, seed: int) -> Tensors:
    """Random weights in float32, each tensor drawn on its own from (seed, name): the same whatever else is drawn.

    Every affine is random, none 1 or 0, so that a forgotten or swapped parameter shows. Weights keep the variance
    of their input, so activations stay near unit scale through the depth.

    Raises:
        ValueError: a seed that is no whole number from 0 up.
    """
    seed = _checked_seed(seed)
    shapes = tensor_shapes(config)
    with ThreadPoolExecutor() as pool:  # the filling runs outside Python's lock
        drawn = pool.map(lambda name: _drawn(name, shapes[name], seed), shapes)
        return dict(zip(shapes, drawn, strict=True))


def _checked_seed(seed: int) -> int:
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if number < 0:
        raise ValueError(f"seed is {seed!r}: expected a whole number from 0 up, such as seed=0")
    return number


def _drawn(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    generator = np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode())]))
    centre, half_width = _uniform_range(name, shape)
    tensor = generator.random(shape, dtype=np.float32)
    tensor *= np.float32(2 * half_width)
    tensor += np.float32(centre - half_width)
    return tensor


def _uniform_range(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    layer, _, kind = name.rpartition(".")
    scales_a_norm = layer.endswith(".conv_y.conv")  # multiplies the normalised activation: drawn around 1
    if kind == "bias":
        return (1.0 if scales_a_norm else 0.0), SPREAD
    if len(shape) == 1:
        return 1.0, SPREAD
    ends_in_video = layer == "decoder.conv_out.conv"  # values should mostly lie in [-1, 1]
    gain = 0.3 if scales_a_norm else 0.8 if ends_in_video else 1.0
    return 0.0, gain * sqrt(3 / prod(shape[1:]))
