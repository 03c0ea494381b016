"""Operators that this backend lowers itself: for each, what TorchAx does, what is done here, and what it gained.

Times are of 2 CPU cores, float32, with [1, 128, 8, 96, 160] where no shape is given. Errors are the tiny preset's mean
absolute error in bfloat16 against float32, over that of diffusers in bfloat16 on torch: 1.44 to encode and 1.21 to
decode with TorchAx's own lowerings, 1.04 and 0.92 with all of these.

Each lowering is compiled on its own, so that running op by op means one program per operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Array, Float


def group_norm(
    x: Float[Array, "b c *space"],
    weight: Float[Array, " c"] | None,
    bias: Float[Array, " c"] | None,
    batch: int,
    channels: int,
    cells: int,
    groups: int,
    eps: float,
) -> tuple[Array, Array, Array]:
    """`aten.native_group_norm`: the output, and mean and reciprocal deviation per group.

    TorchAx maps over batch times groups, and computes bfloat16 in bfloat16. Here all groups are reduced at once, with
    statistics and affine in float32 at least, as torch does. Op by op 43 ms instead of 260 (0.7 instead of 128 for
    [1, 512, 3, 12, 20]); compiled the same in float32, 45 ms instead of 90 in bfloat16. Without it the error of
    encoding is 1.28.
    """
    return _group_norm(x, weight, bias, groups=groups, eps=eps)


@partial(jax.jit, static_argnames=("groups", "eps"))
def _group_norm(x: Array, weight: Array | None, bias: Array | None, *, groups: int, eps: float) -> Any:
    batch, channels = x.shape[:2]
    per_channel = (batch, channels) + (1,) * (x.ndim - 2)

    def spread(statistic: Array) -> Array:
        return jnp.repeat(statistic, channels // groups, axis=1).reshape(per_channel)

    precise = x.astype(_precise(x))
    grouped = precise.reshape(batch, groups, -1)
    mean = grouped.mean(-1)
    rstd = jax.lax.rsqrt(grouped.var(-1) + eps)
    scale = spread(rstd)
    if weight is not None:
        scale = scale * weight.astype(scale.dtype).reshape(1, *per_channel[1:])
    out = (precise - spread(mean)) * scale
    if bias is not None:
        out = out + bias.astype(scale.dtype).reshape(1, *per_channel[1:])
    return out.astype(x.dtype), mean.astype(x.dtype), rstd.astype(x.dtype)


def convolution(
    x: Float[Array, "b i *space"],
    weight: Float[Array, "o i *kernel"],
    bias: Float[Array, " o"] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Float[Array, "b o *out"]:
    """`aten.convolution`, not transposed.

    TorchAx rounds a bfloat16 convolution before it adds the bias. Here both are done in float32 and rounded once, as
    torch does: without it the error of encoding is 1.16. Nothing is gained in float32.

    Tried for the CPU: one channel-last 2-D convolution per temporal tap takes 22 % off decoding (channels 64 to 256),
    but doubles the time to compile. A matrix product for 1x1x1 kernels gains nothing.
    """
    if transposed:
        raise NotImplementedError("transposed convolution: the VAE has none")
    return _convolution(
        x, weight, bias, stride=tuple(stride), padding=tuple(padding), dilation=tuple(dilation), groups=groups
    )


@partial(jax.jit, static_argnames=("stride", "padding", "dilation", "groups"))
def _convolution(
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Array:
    space = "DHW"[-len(stride) :]
    out = jax.lax.conv_general_dilated(
        x,
        weight,
        stride,
        [(pad, pad) for pad in padding],
        rhs_dilation=dilation,
        dimension_numbers=(f"NC{space}", f"OI{space}", f"NC{space}"),
        feature_group_count=groups,
        preferred_element_type=_precise(x),
    )
    if bias is not None:
        out = out + bias.astype(out.dtype).reshape(1, -1, *(1,) * len(stride))
    return out.astype(x.dtype)


def upsample_nearest(x: Float[Array, "b c *space"], size: Sequence[int], *scales: float | None) -> Array:
    """`aten.upsample_nearest2d` and `3d`; an axis whose scale is not given is stretched to its size.

    TorchAx runs torch's decomposition, which gathers by indices computed on the device. Here the factors of the VAE
    become a repetition, whose gradient is a sum instead of a scatter: 28 ms instead of 41 for [8, 128, 48, 80] to twice
    the size.
    """
    for axis, (cells, scale) in enumerate(zip_longest(size, scales), start=2):
        x = _upsample_axis(x, axis, cells, scale)
    return x


def _upsample_axis(x: Array, axis: int, cells: int, scale: float | None) -> Array:
    given = x.shape[axis]
    if cells % given == 0 and (scale is None or scale == cells // given):
        return jnp.repeat(x, cells // given, axis=axis)
    # torch too computes the source cell in float32, whatever the dtype (UpSample.h).
    step = np.float32(1 / scale if scale else given / cells)
    source = np.floor(np.arange(cells, dtype=np.float32) * step).astype(np.int32)
    return jnp.take(x, np.minimum(source, given - 1), axis=axis)


@jax.jit
def silu(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """`aten.silu`, in float32 at least, as torch does.

    TorchAx rounds the sigmoid to bfloat16 before the product. One ResNet block's error goes from 1.2 to 1.0, that of
    decoding from 1.05 to 0.92; that of encoding is 0.99 without it.
    """
    return jax.nn.silu(x.astype(_precise(x))).astype(x.dtype)


LOWERINGS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.native_group_norm.default: group_norm,
    torch.ops.aten.convolution.default: convolution,
    torch.ops.aten.silu.default: silu,
    torch.ops.aten.upsample_nearest2d.default: upsample_nearest,
    torch.ops.aten.upsample_nearest3d.default: upsample_nearest,
}


def _precise(x: Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)
