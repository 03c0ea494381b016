"""The convolutions of the layers, channel-last: sums in float32 at least, bias added, rounded once."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from twinvae.jax.convolution import Pads, convolve2d, convolve3d, in_pieces


def conv3d(
    x: Float[Array, "b t h w c"],
    kernel: Float[Array, "kt kh kw c o"],
    bias: Float[Array, " o"],
    strides: tuple[int, int, int] = (1, 1, 1),
    pads: Pads = ((0, 0), (0, 0)),
    dilation: int = 1,
) -> Float[Array, "b s g v o"]:
    """3-D convolution with no padding in time.

    Args:
        pads: before and after, for height and for width.
        dilation: in time.
    """

    def convolve(x: Array) -> Array:
        return (convolve3d(x, kernel, strides, pads, dilation) + bias).astype(x.dtype)

    return in_pieces(convolve, x, dilation * (len(kernel) - 1)) if strides[0] == 1 else convolve(x)


def conv2d(
    x: Float[Array, "b t h w c"],
    kernel: Float[Array, "kh kw c o"],
    bias: Float[Array, " o"],
    stride: int,
    pads: Pads,
) -> Float[Array, "b t g v o"]:
    """The same 2-D convolution on every frame."""

    def convolve(x: Array) -> Array:
        out = convolve2d(x.reshape(-1, *x.shape[2:]), kernel, (stride, stride), pads)
        return (out + bias).astype(x.dtype).reshape(*x.shape[:2], *out.shape[1:])

    return in_pieces(convolve, x)


def upsampled_conv2d(
    x: Float[Array, "b t h w c"], kernel: Float[Array, "3 3 c o"], bias: Float[Array, " o"]
) -> Float[Array, "b t 2*h 2*w o"]:
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution padded by 1, without the upsampled frames.

    Each of the four output phases sees a 2x2 window of the small frame, with the kernel's rows and columns that fall
    on the same cell added up: 4/9 of the multiplications.
    """
    frames = x.reshape(-1, *x.shape[2:])
    phases = [
        [convolve2d(frames, _fold(_fold(kernel, row, 0), column, 1), (1, 1), (_pad(row), _pad(column)))
         for column in (0, 1)]
        for row in (0, 1)
    ]  # fmt: skip
    rows = [jnp.stack(pair, axis=3) for pair in phases]
    out = jnp.stack(rows, axis=2)
    _, height, _, width, _, channels = out.shape
    out = (out + bias).astype(x.dtype)
    return out.reshape(*x.shape[:2], 2 * height, 2 * width, channels)


def _fold(kernel: Array, phase: int, axis: int) -> Array:
    """A kernel of 3 on upsampled cells as one of 2 on the cells themselves, for even (0) or odd (1) outputs."""
    first, middle, last = (lax.index_in_dim(kernel, index, axis, keepdims=False) for index in range(3))
    pair = (first, middle + last) if phase == 0 else (first + middle, last)
    return jnp.stack(pair, axis)


def _pad(phase: int) -> tuple[int, int]:
    return (1, 0) if phase == 0 else (0, 1)


def linear(x: Float[Array, "b i"], kernel: Float[Array, "i o"], bias: Float[Array, " o"]) -> Float[Array, "b o"]:
    precision = None if x.dtype == jnp.bfloat16 else lax.Precision.HIGHEST
    precise = jnp.promote_types(x.dtype, jnp.float32)
    return (jnp.matmul(x, kernel, precision=precision, preferred_element_type=precise) + bias).astype(x.dtype)
