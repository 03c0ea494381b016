"""Convolutions, channel-last, in the form that is fastest on the platform they are lowered for."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Pads = tuple[tuple[int, int], ...]

_LAYOUTS = {4: ("NHWC", "HWIO", "NHWC"), 5: ("NDHWC", "DHWIO", "NDHWC")}


def convolve(
    x: Float[Array, "n *space c"],
    kernel: Float[Array, "*window c o"],
    strides: tuple[int, ...],
    pads: Pads,
    dilations: tuple[int, ...] | None = None,
) -> Array:
    """XLA's own convolution, in 2-D or 3-D; sums are kept in float32 at least, and float32 is not rounded on the way.

    Accelerators multiply float32 in fewer bits unless told otherwise.
    """
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=pads,
        rhs_dilation=dilations,
        dimension_numbers=_LAYOUTS[x.ndim],
        precision=None if x.dtype == jnp.bfloat16 else lax.Precision.HIGHEST,
        preferred_element_type=jnp.promote_types(x.dtype, jnp.float32),
    )


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

    def whole(x: Array, kernel: Array) -> Array:
        return convolve(x, kernel, strides, ((0, 0), *pads), (dilation, 1, 1))

    def temporal_taps(x: Array, kernel: Array) -> Array:
        batch, frames = x.shape[:2]
        taps = kernel.shape[0]
        out_frames = (frames - dilation * (taps - 1) - 1) // strides[0] + 1
        total = None
        for tap in range(taps):
            start = tap * dilation
            seen = x[:, start : start + (out_frames - 1) * strides[0] + 1 : strides[0]]
            out = convolve(seen.reshape(-1, *x.shape[2:]), kernel[tap], strides[1:], pads)
            total = out if total is None else total + out
        return total.reshape(batch, out_frames, *total.shape[1:])

    # XLA's CPU 3-D convolution reaches half the speed of its 2-D one.
    total = lax.platform_dependent(x, kernel, cpu=temporal_taps, default=whole)
    return (total + bias).astype(x.dtype)


def conv2d(
    x: Float[Array, "b t h w c"],
    kernel: Float[Array, "kh kw c o"],
    bias: Float[Array, " o"],
    stride: int,
    pads: Pads,
) -> Float[Array, "b t g v o"]:
    """The same 2-D convolution on every frame."""
    out = convolve(x.reshape(-1, *x.shape[2:]), kernel, (stride, stride), pads)
    return (out + bias).astype(x.dtype).reshape(*x.shape[:2], *out.shape[1:])


def upsampled_conv2d(
    x: Float[Array, "b t h w c"], kernel: Float[Array, "3 3 c o"], bias: Float[Array, " o"]
) -> Float[Array, "b t 2*h 2*w o"]:
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution padded by 1, without the upsampled frames.

    Each of the four output phases sees a 2x2 window of the small frame, with the kernel's rows and columns that fall
    on the same cell added up: 4/9 of the multiplications.
    """
    frames = x.reshape(-1, *x.shape[2:])
    phases = [
        [convolve(frames, _fold(_fold(kernel, row, 0), column, 1), (1, 1), (_pad(row), _pad(column)))
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
