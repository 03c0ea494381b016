"""Winograd's F(m, 3) along time or height: a convolution's next m frames, or rows, from m + 2 products instead of 3 m.

(Lavin and Gray, https://arxiv.org/abs/1509.09308, section 4.1.) A product here is a convolution along the other axes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import groupby
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

TAPS = 3
LONGEST = 4  # frames of a block; of 6, sums would lose a digit

# Where polynomials are evaluated, besides at infinity: for each m the points that round least of those tried. A sum
# over 128 channels of 3x3 cells rounds to 1.7e-7 in float32 as it is, and to 2.1e-7, 3.4e-7 and 3.6e-7 in these forms.
POINTS = {2: (0, 1, -1), 3: (0, 3 / 4, -3 / 4, 3 / 2), 4: (0, 5 / 8, -5 / 8, 5 / 4, -5 / 4)}


class Form(NamedTuple):
    """F(m, 3) as matrices of coefficients.

    Attributes:
        frames: of frames, to those that are multiplied, [m + 2, m + 2].
        taps: of the kernel's taps, to what they are multiplied by, [m + 2, 3].
        outputs: of products, to output frames, [m, m + 2].
    """

    frames: np.ndarray
    taps: np.ndarray
    outputs: np.ndarray


@cache
def form(m: int) -> Form:
    """The transpose of Toom and Cook's product of polynomials (Blahut, "Fast Algorithms for Signal Processing")."""
    points = POINTS[m]
    at_infinity = np.eye(m + 2)[-1:]
    others = [[q for q in points if q != p] for p in points]
    scale = [np.prod([p - q for q in rest]) for p, rest in zip(points, others, strict=True)]
    powers = np.array([[float(p) ** k for k in range(m + 2)] for p in points])
    frames = np.zeros((m + 2, m + 2))
    for row, roots in enumerate([*others, points]):
        frames[row, : len(roots) + 1] = np.poly(roots)[::-1]
    taps = np.concatenate([powers[:, :TAPS] / np.array(scale)[:, None], at_infinity[:, -TAPS:]])
    outputs = np.concatenate([powers[:, :m], at_infinity[:, -m:]]).T
    return Form(frames, taps, outputs)


def blocks(frames: int) -> list[int]:
    """Lengths of the fewest blocks that output frames fall into, as equal as can be, the longer ones first."""
    return _shared_out(frames, -(-frames // LONGEST))


def pairs(rows: int) -> list[int]:
    """Output rows two by two, the first three of an odd number: longer blocks lose digits to those along time."""
    return _shared_out(rows, rows // 2)


def _shared_out(cells: int, count: int) -> list[int]:
    return [cells // count + (index < cells % count) for index in range(count)]


def convolve_blocks(
    x: Float[Array, "b seen *space c"],
    kernel: Float[Array, "3 *window c o"],
    product: Callable[[Float[Array, "b n *space c"], Float[Array, "*window c o"]], Float[Array, "b n *out o"]],
    lengths: Callable[[int], list[int]] = blocks,
) -> Float[Array, "b t *out o"]:
    """A convolution along the second axis, of at least two output frames.

    Args:
        product: the convolution of every frame with one tap of the kernel.
        lengths: of the blocks that so many output frames fall into.
    """
    out, start = [], 0
    for m, alike in groupby(lengths(x.shape[1] - TAPS + 1)):
        length = m * len(list(alike))
        firsts = range(start, start + m + TAPS - 1)
        seen = [lax.slice_in_dim(x, first, first + length - m + 1, m, axis=1) for first in firsts]
        frames = combine(form(m).frames, seen)
        products = [product(*pair) for pair in zip(frames, combine(form(m).taps, list(kernel)), strict=True)]
        block = jnp.stack(combine(form(m).outputs, products), axis=2)
        out.append(block.reshape(len(x), length, *block.shape[3:]))
        start += length
    return jnp.concatenate(out, axis=1)


def combine(coefficients: np.ndarray, parts: Sequence[Array]) -> list[Array]:
    """Sums of parts, one per row of coefficients."""
    return [_weighted_sum(row, parts) for row in coefficients.tolist()]


def _weighted_sum(row: Sequence[float], parts: Sequence[Array]) -> Any:
    terms = [part if factor == 1 else factor * part for factor, part in zip(row, parts, strict=True) if factor]
    return sum(terms[1:], terms[0])
