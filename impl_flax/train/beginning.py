"""The weights that training begins with: a linear autoencoder, fitted layer by layer, under blocks that add nothing.

What is left to gradient descent is what lines cannot do. The fit alone gave `small` 22.0 dB on other crops of its
clips; begun at random, it had 13.6 dB of its own crops after 150 steps.
"""

from __future__ import annotations

import zlib
from math import prod, sqrt
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn import silu
from jaxtyping import Float

from impl_flax.autoencoder import AutoencoderKLCogVideoX
from impl_flax.params import fill, to_torch_layout
from twinvae import arrays
from twinvae.config import VAEConfig
from twinvae.tensors import Tensors, tensor_shapes

Rows = Float[np.ndarray, "n p"]

CONDITION = 0.1  # of what the latents add to a norm's scale and shift
LOG_VARIANCE = -6.0
STRAIGHT, NARROW = 1.0, 0.3  # middle and spread of what the last activations are given: SiLU is nearly a line there
# Two channels of each group, before the last norms, are large constants of opposite signs, less half of the others
# each: a group's mean is then 0 and its variance nearly the same, whatever a clip's own brightness and contrast.
ANCHOR = 10.0
SPARE = 0.1  # spread of channels that nothing was fitted for
RIDGE = 1e-4  # of the mean variance of what is regressed on
ROWS = 60_000  # of a regression, at most


def first_tensors(config: VAEConfig, seed: int) -> Tensors:
    """Norms that change nothing, convolutions that keep the variance of their input, blocks that add nothing.

    Each tensor is drawn on its own from (seed, name). Seeded weights, whose every affine is random, train badly.
    """
    return {name: _drawn(name, shape, seed) for name, shape in tensor_shapes(config).items()}


def _drawn(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    layer, _, kind = name.rpartition(".")
    scales_a_norm = layer.endswith(".conv_y.conv")
    if kind == "bias":
        straight = layer in ("encoder.norm_out", "decoder.norm_out.conv_b.conv")
        tensor = np.full(shape, STRAIGHT if straight else float(scales_a_norm), np.float32)
        if layer == "encoder.conv_out.conv":
            tensor[shape[0] // 2 :] = LOG_VARIANCE
        return tensor
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    gain = sqrt(2.0)
    if scales_a_norm or layer.endswith(".conv_b.conv"):
        gain = 0.0 if layer.startswith("decoder.norm_out") else CONDITION
    elif layer.endswith(".conv2.conv"):
        gain = 0.0
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return generator.standard_normal(shape, np.float32) * np.float32(gain / sqrt(prod(shape[1:])))


def fitted_tensors(config: VAEConfig, seed: int, video: Float[np.ndarray, "b t h w 3"]) -> Tensors:
    """First weights whose straight path is fitted, layer after layer, to the pixels that each cell covers.

    Args:
        video: clips in [-1, 1], of one frame more than a multiple of what the encoder makes one latent of.
    """
    with arrays.dtype_scope(np.dtype(np.float32)):
        graph, abstract = nnx.split(nnx.eval_shape(lambda: AutoencoderKLCogVideoX(config)))
        model = nnx.merge(graph, fill(abstract, first_tensors(config, seed), np.dtype(np.float32)))
        rng = np.random.default_rng(seed)
        latents = _fit_encoder(model, config, jnp.asarray(video, jnp.float32), rng)
        _fit_decoder(model, config, latents, video, rng)
        return {name: np.asarray(tensor) for name, tensor in to_torch_layout(nnx.state(model)).items()}


def _fit_encoder(model: Any, config: VAEConfig, video: Any, rng: np.random.Generator) -> Any:
    encoder, levels = model.encoder, config.temporal_levels
    kernel = SPARE * np.asarray(encoder.conv_in.conv.kernel[...])
    # Now, and how it changes: averaged over pairs of frames, they still tell one frame of a pair from the other.
    for part, taps in enumerate(((0, 0, 1), (1, -2, 1), (0, -1, 1))):
        for colour in range(3):
            if (channel := 3 * part + colour) < kernel.shape[-1]:
                kernel[..., channel] = 0
                kernel[:, 1, 1, colour, channel] = taps
    _set(encoder.conv_in.conv, kernel)
    x, _ = encoder.conv_in(video)
    for level, block in enumerate(encoder.down_blocks):
        for resnet in block.resnets:
            x = _widened(resnet, x, rng)
        for down in block.downsamplers:
            space, time = 2 ** (level + 1), 2 ** min(level + 1, levels)
            pooled = np.asarray(_pooled(down, x))[:, 1:]
            rows, targets = _windows(pooled, (0, 1), 2), _blocks(video, space, time)
            last = level == len(encoder.down_blocks) - 2
            groups = config.norm_num_groups if last else 0
            _set(down.conv, *_reduced(rows, targets, down.conv.bias[...].shape[0], rng, groups))
            x = down(x)
    for block in (encoder.down_blocks[-1], encoder.mid_block):
        for resnet in block.resnets:
            _spread(resnet.norm1, config.norm_num_groups, 1.0)
    _spread(encoder.norm_out, config.norm_num_groups, NARROW)
    activated = np.asarray(silu(encoder.norm_out(x)))
    count, channels = config.latent_channels, _free(x.shape[-1], config.norm_num_groups)
    kept = np.asarray(x)[..., channels[:count]]
    count = kept.shape[-1]
    line, bias = _line(*_sampled(activated[..., channels], kept, rng))
    kernel = 0.01 * np.asarray(encoder.conv_out.conv.kernel[...])
    biases = np.asarray(encoder.conv_out.conv.bias[...]).copy()
    kernel[..., :count] = 0
    kernel[-1, 1, 1, channels, :count], biases[:count] = line, bias
    _set(encoder.conv_out.conv, kernel, biases)
    return encoder.conv_out(silu(encoder.norm_out(x)))[0][..., : config.latent_channels]


def _fit_decoder(model: Any, config: VAEConfig, latents: Any, video: Any, rng: np.random.Generator) -> None:
    decoder, levels = model.decoder, config.temporal_levels
    kernel = SPARE * np.asarray(decoder.conv_in.conv.kernel[...])
    for channel in range(min(kernel.shape[-2:])):
        kernel[..., channel] = 0
        kernel[-1, 1, 1, channel, channel] = 1
    _set(decoder.conv_in.conv, kernel)
    x, _ = decoder.conv_in(latents)
    space, time = config.spatial_compression, 2**levels
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            if resnet.shortcut == "pointwise":
                rows = np.asarray(x)[:, 1:]
                _set(
                    resnet.conv_shortcut,
                    *_reduced(
                        rows,
                        _repeated(_blocks(video, space, time), rows),
                        resnet.conv_shortcut.bias[...].shape[0],
                        rng,
                        config.norm_num_groups if block is decoder.up_blocks[-1] else 0,
                    ),
                )
                x = resnet.conv_shortcut(x)
        for up in block.upsamplers:
            space //= 2
            large = np.asarray(x)[:, 1:].repeat(2, axis=2).repeat(2, axis=3)
            rows = _windows(large, (1, 1), 1)
            _set(
                up.conv, *_reduced(rows, _repeated(_blocks(video, space, time), rows), up.conv.bias[...].shape[0], rng)
            )
            x = up(x)
    for resnet in decoder.up_blocks[-1].resnets[1:]:
        _spread(resnet.norm1.norm_layer, config.norm_num_groups, 1.0)
    _spread(decoder.norm_out.norm_layer, config.norm_num_groups, NARROW)
    activated = np.asarray(silu(decoder.norm_out(x, latents)))
    free = _free(activated.shape[-1], config.norm_num_groups)
    activated = activated[..., free]
    before = np.concatenate([activated[:, :1]] * 2 + [activated], axis=1)
    apart = round(sqrt(activated[..., 0].size / ROWS)) | 1  # an odd number, which sees every place in a latent's cell
    rows = np.concatenate([
        _windows(before[:, first : first + activated.shape[1]], (1, 1), 1)[:, :, ::apart, ::apart] for first in range(3)
    ], axis=-1)  # fmt: skip
    line, bias = _line(*_sampled(rows, np.asarray(video)[:, :, ::apart, ::apart], rng))
    kernel = np.zeros(decoder.conv_out.conv.kernel.shape)
    kernel[..., free, :] = line.reshape(3, 3, 3, -1, 3)
    _set(decoder.conv_out.conv, kernel, bias)


def _set(module: Any, kernel: np.ndarray, bias: np.ndarray | None = None) -> None:
    module.kernel[...] = jnp.asarray(kernel.reshape(module.kernel[...].shape), jnp.float32)
    if bias is not None:
        module.bias[...] = jnp.asarray(bias, jnp.float32)


def _widened(resnet: Any, x: Any, rng: np.random.Generator) -> Any:
    """Through a block's shortcut, which hands on what it is given, and fills up what it is wider."""
    if resnet.shortcut != "pointwise":
        return x
    kernel = SPARE * np.asarray(resnet.conv_shortcut.kernel[...])
    for channel in range(min(kernel.shape[-2:])):
        kernel[..., channel] = 0
        kernel[0, 0, 0, channel, channel] = 1
    _set(resnet.conv_shortcut, kernel)
    return resnet.conv_shortcut(x)


def _pooled(down: Any, x: Any) -> Any:
    if not down.compress_time:
        return x
    pairs = x[:, 1:].reshape(x.shape[0], -1, 2, *x.shape[2:])
    return jnp.concatenate([x[:, :1], pairs.mean(2)], axis=1)


def _windows(x: np.ndarray, pads: tuple[int, int], stride: int) -> np.ndarray:
    """The 3x3 cells that each cell of a convolution sees, side by side."""
    x = np.pad(x, ((0, 0), (0, 0), pads, pads, (0, 0)))
    height, width = ((x.shape[axis] - 3) // stride + 1 for axis in (2, 3))
    return np.concatenate([
        x[:, :, row : row + stride * height : stride, column : column + stride * width : stride]
        for row in range(3) for column in range(3)
    ], axis=-1)  # fmt: skip


def _blocks(video: Any, space: int, time: int) -> np.ndarray:
    """The pixels that each cell covers, in all frames but the first."""
    video = np.asarray(video)[:, 1:]
    b, t, h, w, c = video.shape
    split = video.reshape(b, t // time, time, h // space, space, w // space, space, c)
    return split.transpose(0, 1, 3, 5, 2, 4, 6, 7).reshape(b, t // time, h // space, w // space, -1)


def _repeated(blocks: np.ndarray, like: np.ndarray) -> np.ndarray:
    return blocks.repeat(like.shape[1] // blocks.shape[1], axis=1)


def _sampled(rows: np.ndarray, targets: np.ndarray, rng: np.random.Generator) -> tuple[Rows, Rows]:
    rows, targets = rows.reshape(-1, rows.shape[-1]), targets.reshape(-1, targets.shape[-1])
    taken = rng.permutation(len(rows))[:ROWS]
    return rows[taken].astype(np.float64), targets[taken].astype(np.float64)


def _line(rows: Rows, targets: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Least squares: weights and bias."""
    middle, centre = rows.mean(0), targets.mean(0)
    rows, targets = rows - middle, targets - centre
    square = rows.T @ rows
    square += RIDGE * np.trace(square) / len(square) * np.eye(len(square))
    weights = np.linalg.solve(square, rows.T @ targets)
    return weights, centre - middle @ weights


def _free(channels: int, groups: int) -> np.ndarray:
    """The channels that are no anchors: all but the last two of each group; of small groups, all."""
    size, every = channels // groups if groups else 1, np.arange(channels)
    return every if size < 4 else every[every % size < size - 2]


def _spread(norm: Any, groups: int, spread: float) -> None:
    """Have a norm of channels with anchors give the others this spread, and of the anchors nothing."""
    channels = norm.scale[...].shape[0]
    free = _free(channels, groups)
    if len(free) < channels:
        scale = np.zeros(channels)
        scale[free] = spread * ANCHOR * sqrt(2 * groups / channels)
        norm.scale[...] = jnp.asarray(scale, jnp.float32)


def _reduced(
    rows: np.ndarray, targets: np.ndarray, channels: int, rng: np.random.Generator, groups: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias of channels that tell most about a row's target, of unit variance (reduced-rank regression).

    Where there are more channels than that, the rest is random, and little; where groups are given, the last of each
    is an anchor.
    """
    rows, targets = _sampled(rows, targets, rng)
    fitted, _ = _line(rows, targets)
    middle, free = rows.mean(0), _free(channels, groups)
    _, directions = np.linalg.eigh(np.cov(((rows - middle) @ fitted).T))
    fitted = fitted @ directions[:, ::-1][:, : min(len(free), *fitted.shape)]
    fitted /= ((rows - middle) @ fitted).std(0)
    spare = rng.standard_normal((len(fitted), len(free) - fitted.shape[1]))
    if spare.size:
        fitted = np.concatenate([fitted, SPARE * spare / ((rows - middle) @ spare).std(0)], axis=1)
    weights, bias = np.zeros((len(fitted), channels)), np.zeros(channels)
    weights[:, free], bias[free] = fitted, -middle @ fitted
    for anchor in np.setdiff1d(np.arange(channels), free).reshape(-1, 2):
        group = slice(anchor[1] - channels // groups + 1, anchor[0])
        weights[:, anchor] = -weights[:, group].sum(1, keepdims=True) / 2
        bias[anchor] = np.array([ANCHOR, -ANCHOR]) - bias[group].sum() / 2
    return weights, bias
