"""Convolutions, channel-last, in the form that is fastest on the platform they are lowered for.

Sums are kept in float32 at least, and float32 is not rounded on the way: accelerators multiply it in fewer bits unless
told otherwise. Nothing is added to the sums, and they are not rounded back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from math import prod
from typing import cast

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from twinvae.jax.compiling import on_gpu, traced_for
from twinvae.jax.winograd import TAPS, convolve_blocks, pairs

Pads = tuple[tuple[int, int], ...]

WIDE = 64  # channels; below, products cost less than the sums that save some of them
INDEXED = 2**31  # numbers of an array that cuDNN's kernels count in 32 bits

_LAYOUTS = {4: ("NHWC", "HWIO", "NHWC"), 5: ("NDHWC", "DHWIO", "NDHWC")}


def convolve2d(
    x: Float[Array, "n h w c"], kernel: Float[Array, "kh kw c o"], strides: tuple[int, ...], pads: Pads
) -> Float[Array, "n g v o"]:
    """2-D convolution.

    Args:
        pads: before and after, for height and for width.
    """

    def as_it_is(x: Array, kernel: Array) -> Array:
        return _convolve(x, kernel, strides, pads)

    plain = len(kernel) == TAPS and strides[0] == 1 and x.shape[1] + sum(pads[0]) > TAPS
    if traced_for() == "cpu" and plain and _worth_fewer_products(x):
        return _row_pairs(x, kernel, strides[1], pads)
    if x.dtype != jnp.float64:
        return as_it_is(x, kernel)
    # XLA's CPU convolution in float64 is a plain loop: a tiny decoder takes 2.6 times as long, 16 times unoptimised.
    return lax.platform_dependent(x, kernel, cpu=partial(_matrix_product, strides=strides, pads=pads), default=as_it_is)


def convolve3d(
    x: Float[Array, "b t h w c"],
    kernel: Float[Array, "kt kh kw c o"],
    strides: tuple[int, ...],
    pads: Pads,
    dilation: int = 1,
) -> Float[Array, "b s g v o"]:
    """3-D convolution with no padding in time.

    Args:
        pads: before and after, for height and for width.
        dilation: in time.
    """

    def as_it_is(x: Array, kernel: Array) -> Array:
        return _convolve(x, kernel, strides, ((0, 0), *pads), (dilation, 1, 1))

    def temporal_taps(x: Array, kernel: Array) -> Array:
        seen = zip(_seen(x.shape[1], len(kernel), strides[0], dilation), kernel, strict=True)
        return cast(Array, sum(_every_frame(x[:, at], tap, strides[1:], pads) for at, tap in seen))

    def temporal_blocks(x: Array, kernel: Array) -> Array:
        return convolve_blocks(x, kernel, lambda frames, tap: _every_frame(frames, tap, strides[1:], pads))

    # XLA's CPU 3-D convolution reaches half the speed of its 2-D one.
    plain = len(kernel) == TAPS and strides[0] == dilation == 1 and x.shape[1] > TAPS
    in_blocks = plain and _worth_fewer_products(x)
    taps = partial(_one_product, strides=strides, pads=pads, dilation=dilation)
    on_cpu = temporal_blocks if in_blocks else taps if x.dtype == jnp.float64 else temporal_taps
    return lax.platform_dependent(x, kernel, cpu=on_cpu, default=as_it_is)


def _worth_fewer_products(x: Array) -> bool:
    """Whether Winograd's forms pay. In bfloat16 the sums that they multiply would be rounded."""
    return x.shape[-1] >= WIDE and x.dtype != jnp.bfloat16


def _row_pairs(
    x: Float[Array, "n h w c"], kernel: Float[Array, "3 kw c o"], stride: int, pads: Pads
) -> Float[Array, "n g v o"]:
    """2-D convolution, two rows at a time.

    Below a convolution along time, this takes 0.79 to 0.88 of the time (128 to 512 channels, 2 cores), and an error of
    6.7e-7 becomes 7.3e-7 to 8.4e-7. By pairs of columns, too, it would only read and write more.

    Args:
        stride: along width.
    """

    def product(rows: Array, taps: Array) -> Array:
        return convolve2d(rows, taps[None], (1, stride), ((0, 0), pads[1]))

    return convolve_blocks(jnp.pad(x, ((0, 0), pads[0], (0, 0), (0, 0))), kernel, product, pairs)


def _seen(frames: int, taps: int, stride: int, dilation: int) -> list[slice]:
    """The frames that each of a kernel's taps is multiplied with."""
    last = (frames - dilation * (taps - 1) - 1) // stride * stride
    return [slice(start, start + last + 1, stride) for start in range(0, dilation * taps, dilation)]


def in_pieces(convolve: Callable[[Array], Array], x: Array, seen: int = 0, axis: int = 1) -> Array:
    """`convolve(x)`, on a GPU as few frames at a time as keep each piece within `INDEXED` numbers.

    Args:
        seen: earlier frames that each frame of the result is made from; `x` has them at its front.
        axis: of frames.
    """
    if not on_gpu():
        return convolve(x)
    made = jax.eval_shape(convolve, x).shape
    frames = made[axis]
    most = INDEXED // max(prod(x.shape) // x.shape[axis], prod(made) // frames) - seen
    if frames <= most or most < 1:
        return convolve(x)
    count = -(-frames // most)
    bounds = [frames * piece // count for piece in range(count + 1)]
    parts = [lax.slice_in_dim(x, first, last + seen, axis=axis) for first, last in pairwise(bounds)]
    return jnp.concatenate([convolve(part) for part in parts], axis)


def _every_frame(
    x: Float[Array, "b t h w c"], kernel: Float[Array, "kh kw c o"], strides: tuple[int, ...], pads: Pads
) -> Float[Array, "b t g v o"]:
    """The same 2-D convolution of every frame."""
    out = convolve2d(x.reshape(-1, *x.shape[2:]), kernel, strides, pads)
    return out.reshape(*x.shape[:2], *out.shape[1:])


def _convolve(
    x: Array, kernel: Array, strides: tuple[int, ...], pads: Pads, dilations: tuple[int, ...] | None = None
) -> Array:
    """XLA's own convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=strides,
        padding=pads,
        rhs_dilation=dilations,
        dimension_numbers=_LAYOUTS[x.ndim],
        precision=None if x.dtype == jnp.bfloat16 else lax.Precision.HIGHEST,
        preferred_element_type=x.dtype if on_gpu() else jnp.promote_types(x.dtype, jnp.float32),
    )


@partial(jax.jit, static_argnames=("strides", "pads", "dilation"))
def _one_product(
    x: Float[Array, "b t h w c"],
    kernel: Float[Array, "kt kh kw c o"],
    strides: tuple[int, ...],
    pads: Pads,
    dilation: int,
) -> Float[Array, "b s g v o"]:
    """3-D convolution as one product: of every frame by all taps side by side, of which each output adds up its own."""
    taps, channels = len(kernel), kernel.shape[-1]
    beside = kernel.transpose(1, 2, 3, 0, 4).reshape(*kernel.shape[1:4], -1)
    out = _matrix_product(x.reshape(-1, *x.shape[2:]), beside, strides[1:], pads)
    out = out.reshape(*x.shape[:2], *out.shape[1:])
    seen = enumerate(_seen(x.shape[1], taps, strides[0], dilation))
    return cast(Array, sum(out[:, at, :, :, tap * channels : (tap + 1) * channels] for tap, at in seen))


@partial(jax.jit, static_argnames=("strides", "pads"))
def _matrix_product(
    x: Float[Array, "n h w c"], kernel: Float[Array, "kh kw c o"], strides: tuple[int, ...], pads: Pads
) -> Float[Array, "n g v o"]:
    """2-D convolution as a product of matrices."""
    window, channels = kernel.shape[:2], kernel.shape[2:]
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    for axis in (1, 2):
        x = _windows(x, axis, window[axis - 1], strides[axis - 1])
    # Windows were laid side by side along height first.
    rows = kernel.transpose(1, 0, 2, 3).reshape(-1, channels[1])
    return (x.reshape(-1, x.shape[-1]) @ rows).reshape(*x.shape[:-1], channels[1])


def _windows(x: Float[Array, "n h w c"], axis: int, size: int, stride: int) -> Array:
    """The channels of `size` cells along an axis side by side, at every place where a window starts."""
    last = x.shape[axis] - size
    shifted = [lax.slice_in_dim(x, start, start + last + 1, stride, axis) for start in range(size)]
    return jnp.concatenate(shifted, axis=-1)
