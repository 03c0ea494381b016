"""The tensors of the VAE by diffusers' names and in its layouts, and whether those that are given are they."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from twinvae.config import VAEConfig

FLOATS = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}  # as safetensors calls them
KINDS = ", ".join(dtype.name for dtype in FLOATS.values())

Shapes = Mapping[str, tuple[int, ...]]
Tensors = dict[str, np.ndarray]


class Described(Protocol):
    """What has a shape and a dtype, as arrays do."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...


def check_tensors(expected: Shapes, tensors: Mapping[str, Described], whose: str, advice: str) -> None:
    """Check names, shapes and float dtypes. NaN is let through.

    Args:
        whose: what they should fit, such as "the checkpoint's config".
        advice: what to do where they do not.
    Raises:
        ValueError: a missing, extra, misshapen or non-float tensor.
    """
    missing = [name for name in expected if name not in tensors]
    extra = [name for name in tensors if name not in expected]
    problems = [f"missing {some(missing)}"] if missing else []
    problems += [f"not in this architecture: {some(extra)}"] if extra else []
    for name, shape in expected.items():
        if name in tensors and tuple(tensors[name].shape) != tuple(shape):
            problems.append(f"{name} has shape {tuple(tensors[name].shape)}, expected {tuple(shape)}")
        if name in tensors and tensors[name].dtype not in FLOATS.values():
            problems.append(f"{name} is {tensors[name].dtype}, expected one of {KINDS}")
    if problems:
        raise ValueError(
            f"the tensors do not fit {whose} ({len(expected)} tensors expected, {len(tensors)} found): "
            f"{some(problems, '; ')}. {advice}"
        )


def some(items: Sequence[str], separator: str = ", ") -> str:
    """The first few of a list, and how many more there are."""
    shown = separator.join(items[:4])
    return shown if len(items) <= 4 else f"{shown}{separator}and {len(items) - 4} more"


def tensor_shapes(config: VAEConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor's shape by diffusers' name, in diffusers' order and layout (convolutions [out, in, t, h, w])."""
    return dict(_named_shapes(config))


def _named_shapes(config: VAEConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    channels, latents = config.block_out_channels, config.latent_channels
    last = len(channels) - 1

    yield from _causal_conv("encoder.conv_in", config.in_channels, channels[0])
    for index, width in enumerate(channels):
        block = f"encoder.down_blocks.{index}"
        inner = channels[max(index - 1, 0)]
        for layer in range(config.layers_per_block):
            yield from _resnet(f"{block}.resnets.{layer}", inner if layer == 0 else width, width, None)
        if index < last:
            yield from _affine(f"{block}.downsamplers.0.conv", (width, width, 3, 3))
    for layer in range(2):
        yield from _resnet(f"encoder.mid_block.resnets.{layer}", channels[-1], channels[-1], None)
    yield from _affine("encoder.norm_out", (channels[-1],))
    yield from _causal_conv("encoder.conv_out", channels[-1], 2 * latents)

    upwards = channels[::-1]
    yield from _causal_conv("decoder.conv_in", latents, upwards[0])
    for layer in range(2):
        yield from _resnet(f"decoder.mid_block.resnets.{layer}", upwards[0], upwards[0], latents)
    for index, width in enumerate(upwards):
        block = f"decoder.up_blocks.{index}"
        inner = upwards[max(index - 1, 0)]
        for layer in range(config.layers_per_block + 1):
            yield from _resnet(f"{block}.resnets.{layer}", inner if layer == 0 else width, width, latents)
        if index < last:
            yield from _affine(f"{block}.upsamplers.0.conv", (width, width, 3, 3))
    yield from _norm("decoder.norm_out", upwards[-1], latents)
    yield from _causal_conv("decoder.conv_out", upwards[-1], config.out_channels)

    if config.use_quant_conv:
        yield from _affine("quant_conv", (2 * config.out_channels, 2 * config.out_channels, 1, 1, 1))
    if config.use_post_quant_conv:
        yield from _affine("post_quant_conv", (config.out_channels, config.out_channels, 1, 1, 1))


def _affine(name: str, weight: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", weight
    yield f"{name}.bias", weight[:1]


def _causal_conv(name: str, inputs: int, outputs: int, kernel: int = 3) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _affine(f"{name}.conv", (outputs, inputs, kernel, kernel, kernel))


def _norm(name: str, channels: int, zq_channels: int | None) -> Iterator[tuple[str, tuple[int, ...]]]:
    """A GroupNorm, or where latents condition it, a spatially conditioned norm."""
    if zq_channels is None:
        yield from _affine(name, (channels,))
        return
    yield from _affine(f"{name}.norm_layer", (channels,))
    yield from _causal_conv(f"{name}.conv_y", zq_channels, channels, kernel=1)
    yield from _causal_conv(f"{name}.conv_b", zq_channels, channels, kernel=1)


def _resnet(name: str, inputs: int, outputs: int, zq_channels: int | None) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from _norm(f"{name}.norm1", inputs, zq_channels)
    yield from _norm(f"{name}.norm2", outputs, zq_channels)
    yield from _causal_conv(f"{name}.conv1", inputs, outputs)
    yield from _causal_conv(f"{name}.conv2", outputs, outputs)
    if inputs != outputs:
        yield from _affine(f"{name}.conv_shortcut", (outputs, inputs, 1, 1, 1))
