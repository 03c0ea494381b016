"""The layers of CogVideoX's VAE in Flax NNX, each under diffusers' class name. Arrays are [b, t, h, w, c]."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from impl_flax.convolution import conv2d, conv3d, upsampled_conv2d
from impl_flax.convolution import linear as linear_product

Frames = Float[Array, "b t h w c"]
Cache = Any


ACTIVATIONS = {
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "mish": jax.nn.mish,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
}


def activate(x: Array, kind: str) -> Array:
    """Apply an activation by diffusers' name, rounding a bfloat16 once, as PyTorch does, not after each operation."""
    return ACTIVATIONS[kind](x.astype(jnp.promote_types(x.dtype, jnp.float32))).astype(x.dtype)


def _triple(size: int | tuple[int, ...]) -> tuple[int, int, int]:
    return (size,) * 3 if isinstance(size, int) else tuple(size)


class CogVideoXSafeConv3d(nnx.Module):
    """A 3-D convolution. diffusers splits large inputs over time here; XLA needs no such help."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int, int],
        stride: int | tuple[int, int, int] = 1,
        padding: int | tuple[int, int, int] = 0,
        dilation: int | tuple[int, int, int] = 1,
    ):
        self.stride, self.padding = _triple(stride), _triple(padding)
        self.dilation = _triple(dilation)[0]
        self.kernel = nnx.Param(jnp.zeros((*_triple(kernel_size), in_channels, out_channels)))
        self.bias = nnx.Param(jnp.zeros(out_channels))

    def __call__(self, x: Frames) -> Frames:
        time, height, width = self.padding
        if time:
            x = jnp.pad(x, ((0, 0), (time, time), (0, 0), (0, 0), (0, 0)))
        pads = ((height, height), (width, width))
        return conv3d(x, self.kernel[...], self.bias[...], self.stride, pads, self.dilation)


class CogVideoXCausalConv3d(nnx.Module):
    """A 3-D convolution that sees no later frame: earlier ones come from the conv cache.

    At a clip's first frame batch there is no cache, and the first frame is repeated in its place.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int, int],
        stride: int | tuple[int, int, int] = 1,
        dilation: int = 1,
        pad_mode: str = "constant",
    ):
        time, height, width = _triple(kernel_size)
        self.pad_mode = pad_mode
        self.time_pad, self.height_pad, self.width_pad = time - 1, (height - 1) // 2, (width - 1) // 2
        # diffusers pads the height by the width's padding and the other way round; the same for square kernels.
        padding = (0, 0, 0) if pad_mode == "replicate" else (0, self.width_pad, self.height_pad)
        stride = stride if isinstance(stride, tuple) else (stride, 1, 1)
        self.conv = CogVideoXSafeConv3d(
            in_channels, out_channels, (time, height, width), stride, padding, (dilation, 1, 1)
        )

    def __call__(self, x: Frames, conv_cache: Cache | None = None) -> tuple[Frames, Cache | None]:
        if self.pad_mode == "replicate":
            sides = ((self.time_pad, 0), (self.height_pad,) * 2, (self.width_pad,) * 2)
            return self.conv(jnp.pad(x, ((0, 0), *sides, (0, 0)), mode="edge")), None
        if self.time_pad == 0:
            return self.conv(x), None
        earlier = jnp.repeat(x[:, :1], self.time_pad, axis=1) if conv_cache is None else conv_cache
        x = jnp.concatenate([earlier, x], axis=1)
        return self.conv(x), x[:, -self.time_pad :]


class GroupNorm(nnx.Module):
    """Normalises groups of channels with the statistics of all frames in the batch of frames."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5):
        self.num_groups, self.eps = num_groups, eps
        self.scale = nnx.Param(jnp.ones(num_channels))
        self.bias = nnx.Param(jnp.zeros(num_channels))

    def _per_group(self, of_channels: Float[Array, "b c"]) -> Float[Array, "b c"]:
        """The mean over each group's channels, given to each channel."""
        groups = of_channels.reshape(of_channels.shape[0], self.num_groups, -1)
        return jnp.broadcast_to(groups.mean(-1, keepdims=True), groups.shape).reshape(of_channels.shape)

    def precise(self, x: Frames) -> Frames:
        """The normalised frames in float32 at least, whatever the type of `x`."""
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = self._per_group(x.mean((1, 2, 3)))[:, None, None, None]
        variance = self._per_group(jnp.square(x - mean).mean((1, 2, 3)))[:, None, None, None]
        return (x - mean) * (lax.rsqrt(variance + self.eps) * self.scale[...]) + self.bias[...]

    def __call__(self, x: Frames) -> Frames:
        return self.precise(x).astype(x.dtype)


class CogVideoXSpatialNorm3D(nnx.Module):
    """GroupNorm whose scale and shift come from the latents (https://arxiv.org/abs/2209.09002)."""

    def __init__(self, f_channels: int, zq_channels: int, groups: int = 32):
        self.norm_layer = GroupNorm(groups, f_channels, eps=1e-6)
        self.conv_y = CogVideoXCausalConv3d(zq_channels, f_channels, kernel_size=1)
        self.conv_b = CogVideoXCausalConv3d(zq_channels, f_channels, kernel_size=1)

    def __call__(self, f: Frames, zq: Frames) -> Frames:
        # A 1x1x1 convolution commutes with nearest-neighbour resizing: convolve the small latents.
        scale, shift = (resize_latents(conv(zq)[0], f.shape[1:4]) for conv in (self.conv_y, self.conv_b))
        return (self.norm_layer.precise(f) * scale + shift).astype(f.dtype)


def resize_latents(zq: Frames, size: tuple[int, int, int]) -> Frames:
    """Resize to `size` (t, h, w) by nearest neighbour; with an odd number of frames, the first maps to the first."""
    frames, height, width = size
    if frames > 1 and frames % 2 == 1:
        if zq.shape[1] < 2:
            raise ValueError(f"{frames} frames need at least 2 latent frames to take their scale from, found 1")
        times = np.concatenate([[0], 1 + nearest(zq.shape[1] - 1, frames - 1)])
    else:
        times = nearest(zq.shape[1], frames)
    for axis, index in enumerate((times, nearest(zq.shape[2], height), nearest(zq.shape[3], width)), start=1):
        zq = _take(zq, index, axis)
    return zq


def nearest(source: int, target: int) -> np.ndarray:
    """The source index of each target index, in float32 arithmetic as PyTorch's `interpolate(mode="nearest")`."""
    if target == 2 * source:
        return np.arange(target) // 2
    scale = np.float32(source) / np.float32(target)
    return np.minimum(np.floor(np.arange(target, dtype=np.float32) * scale).astype(int), source - 1)


def _take(x: Array, index: np.ndarray, axis: int) -> Array:
    """`x` at `index` along `axis`; whole-number repeats are broadcasts, which fuse into what follows."""
    repeats, rest = divmod(len(index), x.shape[axis])
    if rest == 0 and np.array_equal(index, np.arange(len(index)) // repeats):
        return x if repeats == 1 else jnp.repeat(x, repeats, axis=axis)
    return jnp.take(x, index, axis=axis)


class Linear(nnx.Module):
    def __init__(self, in_features: int, out_features: int):
        self.kernel = nnx.Param(jnp.zeros((in_features, out_features)))
        self.bias = nnx.Param(jnp.zeros(out_features))

    def __call__(self, x: Float[Array, "b i"]) -> Float[Array, "b o"]:
        return linear_product(x, self.kernel[...], self.bias[...])


class Conv2d(nnx.Module):
    """The parameters of a 3x3 convolution of frames."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        self.kernel = nnx.Param(jnp.zeros((kernel_size, kernel_size, in_channels, out_channels)))
        self.bias = nnx.Param(jnp.zeros(out_channels))


class CogVideoXDownsample3D(nnx.Module):
    """Average pairs of frames (`compress_time`), then halve height and width with a strided convolution.

    An odd number of frames keeps its first frame alone.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 2,
        padding: int = 0,
        compress_time: bool = False,
    ):
        self.stride, self.padding, self.compress_time = stride, padding, compress_time
        self.conv = Conv2d(in_channels, out_channels, kernel_size)

    def __call__(self, x: Frames) -> Frames:
        if self.compress_time:
            alone = x.shape[1] % 2
            pairs = x[:, alone:].reshape(x.shape[0], -1, 2, *x.shape[2:])
            x = jnp.concatenate([x[:, :alone], pairs.mean(2, dtype=x.dtype)], axis=1)
        pads = ((self.padding, self.padding + 1),) * 2
        return conv2d(x, self.conv.kernel[...], self.conv.bias[...], self.stride, pads)


class CogVideoXUpsample3D(nnx.Module):
    """Double height and width, and with `compress_time` the frames, by nearest neighbour; then convolve each frame.

    An odd number of frames does not double its first frame.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 1,
        compress_time: bool = False,
    ):
        self.stride, self.padding, self.compress_time = stride, padding, compress_time
        self.foldable = (kernel_size, stride, padding) == (3, 1, 1)
        self.conv = Conv2d(in_channels, out_channels, kernel_size)

    def __call__(self, x: Frames) -> Frames:
        kernel, bias = self.conv.kernel[...], self.conv.bias[...]
        # In bfloat16 the folded kernel's sums would be rounded: 1.34 times PyTorch's error, measured.
        if self.foldable and x.dtype != jnp.bfloat16:
            x = upsampled_conv2d(x, kernel, bias)
        else:
            x = jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)
            x = conv2d(x, kernel, bias, self.stride, ((self.padding,) * 2,) * 2)
        if not self.compress_time or x.shape[1] == 1:
            return x
        # The convolution is of single frames, so each runs once and its result is repeated.
        alone = x.shape[1] % 2
        return jnp.concatenate([x[:, :alone], jnp.repeat(x[:, alone:], 2, axis=1)], axis=1)
