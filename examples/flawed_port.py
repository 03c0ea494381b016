"""A port of CogVideoX's video VAE that is wrong on purpose, in twelve ways, each behind a switch: NumPy, channel-last.

With no defect on it is diffusers' VAE. It is what the findings of `twinvae check` are tried on: five of its defects
are those of published ports (one of them counts as two), six more are mistakes that this VAE invites.

    FLAWED_PORT_DEFECTS=clipped,same-padding twinvae check examples/flawed_port.py:make
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from scipy.special import erf

# Each defect, and where it acts alone.
DEFECTS = {
    "pool-reshape": "encode, two frames or more: frames are pooled after a reshape that should have been a transpose",
    "one-latent-per-batch": "decode, two latents or more: a latent is a frame batch, where two are",
    "single-latent-doubled": "decode, one latent: it becomes four frames, where it stays one",
    "unblended-neighbours": "tiles, corners: a tile is blended with neighbours that are not blended themselves",
    "clipped": "decode without tiles: video is clipped to [-1, 1]",
    "cache-of-input": "a frame batch after one of a single frame: the conv cache is of that input alone",
    "odd-frame-last": "encode, an odd count of three frames or more: the last frame is left alone, not the first",
    "remainder-last": "encode, more than 8 frames and no multiple of 8: the last frame batch takes the remainder",
    "same-padding": "encode, heights or widths that do not divide by 8: downsampling pads as 'SAME' does",
    "cache-of-first-batch": "encode, the third frame batch on: the conv cache stays the first batch's",
    "items-share-cache": "batches of two clips or more: a clip begins with the conv cache of the one before",
    "act-fn-ignored": "configs whose act_fn is not silu",
}
Array = np.ndarray
Cache = dict[str, Array]


def make(config: Any, tensors: Mapping[str, Any], defects: Iterable[str] | None = None) -> FlawedVAE:
    """Build the port from diffusers' config and tensors.

    Args:
        defects: which of DEFECTS are on; default: those that FLAWED_PORT_DEFECTS names, or "all".
    """
    if defects is None:
        named = os.environ.get("FLAWED_PORT_DEFECTS", "")
        defects = DEFECTS if named == "all" else filter(None, named.split(","))
    return FlawedVAE(config, tensors, defects)


class FlawedVAE:
    """The VAE, its frame batches and its tiles."""

    def __init__(self, config: Any, tensors: Mapping[str, Any], defects: Iterable[str] = ()):
        self.config, self.defects = config, set(defects)
        self.levels = int(np.log2(config.temporal_compression_ratio))  # that halve or double frames
        if unknown := self.defects - DEFECTS.keys():
            raise ValueError(f"no such defects: {', '.join(sorted(unknown))}; choose from {', '.join(DEFECTS)}")
        self.params = {name: _for_numpy(np.asarray(tensor)) for name, tensor in tensors.items()}
        self.num_sample_frames_batch_size = 8
        self.num_latent_frames_batch_size = 2
        self.tile_sample_min_height = config.sample_height // 2
        self.tile_sample_min_width = config.sample_width // 2
        self.tile_overlap_factor_height, self.tile_overlap_factor_width = 1 / 6, 1 / 5
        self.use_tiling = False
        self.noted: dict[str, list[Array]] | None = None

    # What a user calls

    def encode(self, video: Array) -> Array:
        """[b, t, h, w, 3] to moments."""
        return self.run("encode", np.asarray(video))

    def decode(self, latents: Array) -> Array:
        """Raw latents to video."""
        return self.run("decode", np.asarray(latents))

    def activations(self, operation: str, clip: Array) -> dict[str, Array]:
        """Every block's output by diffusers' name."""
        self.noted, tiling, self.use_tiling = {}, self.use_tiling, False
        self.run(operation, np.asarray(clip))
        noted, self.noted, self.use_tiling = self.noted, None, tiling
        joined = {}
        for name, parts in noted.items():
            each = len(parts) // len(clip)  # frame batches of an item
            items = [np.concatenate(parts[i : i + each], axis=1) for i in range(0, len(parts), each)]
            joined[name] = np.concatenate(items)
        return joined

    def enable_tiling(
        self,
        tile_sample_min_height: int | None = None,
        tile_sample_min_width: int | None = None,
        tile_overlap_factor_height: float | None = None,
        tile_overlap_factor_width: float | None = None,
    ) -> None:
        self.use_tiling = True
        given = {name: value for name, value in locals().items() if name != "self" and value is not None}
        vars(self).update(given)

    def disable_tiling(self) -> None:
        self.use_tiling = False

    # Items, tiles and frame batches

    def run(self, operation: str, clip: Array) -> Array:
        scale = 1 if operation == "encode" else 2 ** (len(self.config.block_out_channels) - 1)
        height, width = self.tile_sample_min_height // scale, self.tile_sample_min_width // scale
        outputs, cache = [], None
        for item in np.split(clip, len(clip)):
            if self.use_tiling and (item.shape[2] > height or item.shape[3] > width):
                outputs.append(self.tiled(operation, item, (height, width)))
                continue
            out, left = self.frame_batches(operation, item, cache)
            cache = left if "items-share-cache" in self.defects else None
            outputs.append(np.clip(out, -1, 1) if operation == "decode" and "clipped" in self.defects else out)
        return np.concatenate(outputs)

    def frame_batches(self, operation: str, clip: Array, cache: Cache | None) -> tuple[Array, Cache | None]:
        encode, frames, outputs = operation == "encode", clip.shape[1], []
        size = self.num_sample_frames_batch_size if encode else self.num_latent_frames_batch_size
        if not encode and "one-latent-per-batch" in self.defects:
            size = 1
        rest = frames % size if frames > size else 0
        edges = [*range(rest, frames, size), frames] if frames > size else [0, frames]
        edges[0] = 0
        if encode and "remainder-last" in self.defects:
            edges = [*range(0, frames, size), frames]
        for start, stop in itertools.pairwise(edges):
            new: Cache = {}
            out = (self.encoder if encode else self.decoder)(clip[:, start:stop], cache, new)
            outputs.append(out)
            if cache is None or not encode or "cache-of-first-batch" not in self.defects:
                cache = new
        return np.concatenate(outputs, axis=1), cache

    def tiled(self, operation: str, clip: Array, tile: tuple[int, int]) -> Array:
        factors = self.tile_overlap_factor_height, self.tile_overlap_factor_width
        factor = 2 ** (len(self.config.block_out_channels) - 1)
        whole = self.tile_sample_min_height, self.tile_sample_min_width
        outer = [side // factor for side in whole] if operation == "encode" else whole
        strides = [int(side * (1 - share)) for side, share in zip(tile, factors, strict=True)]
        extents = [int(side * share) for side, share in zip(outer, factors, strict=True)]
        keep = [side - extent for side, extent in zip(outer, extents, strict=True)]
        raw = [
            [
                self.frame_batches(operation, clip[:, :, top : top + tile[0], left : left + tile[1]], None)[0]
                for left in range(0, clip.shape[3], strides[1])
            ]
            for top in range(0, clip.shape[2], strides[0])
        ]
        blended: list[list[Array]] = []
        for i, row in enumerate(raw):
            blended.append([])
            for j, part in enumerate(row):
                near = raw if "unblended-neighbours" in self.defects else blended
                if i:
                    part = blend(near[i - 1][j], part, extents[0], axis=2)
                if j:
                    part = blend(near[i][j - 1], part, extents[1], axis=3)
                blended[i].append(part)
        rows = [np.concatenate([part[:, :, : keep[0], : keep[1]] for part in row], axis=3) for row in blended]
        return np.concatenate(rows, axis=2)

    # The network

    def encoder(self, x: Array, old: Cache | None, new: Cache) -> Array:
        config = self.config
        x = self.note("encoder.conv_in", self.causal_conv("encoder.conv_in", x, old, new))
        last = len(config.block_out_channels) - 1
        for level in range(last + 1):
            for index in range(config.layers_per_block):
                x = self.resnet(f"encoder.down_blocks.{level}.resnets.{index}", x, None, old, new)
            if level < last:
                name = f"encoder.down_blocks.{level}.downsamplers.0"
                x = self.note(name, self.downsample(name, x, level < self.levels))
        for index in range(2):
            x = self.resnet(f"encoder.mid_block.resnets.{index}", x, None, old, new)
        x = silu(self.note("encoder.norm_out", self.group_norm("encoder.norm_out", x, 1e-6)))
        x = self.note("encoder.conv_out", self.causal_conv("encoder.conv_out", x, old, new))
        return self.note("quant_conv", self.pointwise("quant_conv", x)) if config.use_quant_conv else x

    def decoder(self, z: Array, old: Cache | None, new: Cache) -> Array:
        config = self.config
        if config.use_post_quant_conv:
            z = self.note("post_quant_conv", self.pointwise("post_quant_conv", z))
        x = self.note("decoder.conv_in", self.causal_conv("decoder.conv_in", z, old, new))
        for index in range(2):
            x = self.resnet(f"decoder.mid_block.resnets.{index}", x, z, old, new)
        last = len(config.block_out_channels) - 1
        for level in range(last + 1):
            for index in range(config.layers_per_block + 1):
                x = self.resnet(f"decoder.up_blocks.{level}.resnets.{index}", x, z, old, new)
            if level < last:
                name = f"decoder.up_blocks.{level}.upsamplers.0"
                x = self.note(name, self.upsample(name, x, level < self.levels))
        x = silu(self.note("decoder.norm_out", self.spatial_norm("decoder.norm_out", x, z)))
        return self.note("decoder.conv_out", self.causal_conv("decoder.conv_out", x, old, new))

    def note(self, name: str, x: Array) -> Array:
        if self.noted is not None:
            self.noted.setdefault(name, []).append(x)
        return x

    def resnet(self, name: str, x: Array, z: Array | None, old: Cache | None, new: Cache) -> Array:
        h = x
        for index in "12":
            if z is None:
                h = self.group_norm(f"{name}.norm{index}", h, self.config.norm_eps)
            else:
                h = self.spatial_norm(f"{name}.norm{index}", h, z)
            h = self.causal_conv(f"{name}.conv{index}", self.activation(h), old, new)
        shortcut = f"{name}.conv_shortcut"
        x = self.pointwise(shortcut, x) if f"{shortcut}.weight" in self.params else x
        return self.note(name, h + x)

    def activation(self, x: Array) -> Array:
        return silu(x) if "act-fn-ignored" in self.defects else ACTIVATIONS[self.config.act_fn](x)

    def causal_conv(self, name: str, x: Array, old: Cache | None, new: Cache) -> Array:
        weight, bias = self.params[f"{name}.conv.weight"], self.params[f"{name}.conv.bias"]
        before = weight.shape[0] - 1
        cached = old[name] if old else x[:, :1]
        while cached.shape[1] < before:  # a cache that is short begins with its first frame, over and over
            cached = np.concatenate([cached[:, :1], cached], axis=1)
        padded = np.concatenate([cached, x], axis=1)
        new[name] = (x if "cache-of-input" in self.defects else padded)[:, -before:]
        return convolve(np.pad(padded, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0))), weight) + bias

    def pointwise(self, name: str, x: Array) -> Array:
        return x @ self.params[f"{name}.weight"][0, 0, 0] + self.params[f"{name}.bias"]

    def group_norm(self, name: str, x: Array, epsilon: float) -> Array:
        groups = x.reshape(*x.shape[:4], self.config.norm_num_groups, -1)
        mean = groups.mean(axis=(1, 2, 3, 5), keepdims=True)
        variance = groups.var(axis=(1, 2, 3, 5), keepdims=True)
        normed = ((groups - mean) / np.sqrt(variance + epsilon)).reshape(x.shape)
        return normed * self.params[f"{name}.weight"] + self.params[f"{name}.bias"]

    def spatial_norm(self, name: str, x: Array, z: Array) -> Array:
        t, h, w = x.shape[1:4]
        if t > 1 and t % 2:  # the first frame has a latent of its own
            z = np.concatenate([nearest(z[:, :1], (1, h, w)), nearest(z[:, 1:], (t - 1, h, w))], axis=1)
        else:
            z = nearest(z, (t, h, w))
        scale, shift = self.pointwise(f"{name}.conv_y.conv", z), self.pointwise(f"{name}.conv_b.conv", z)
        return self.group_norm(f"{name}.norm_layer", x, 1e-6) * scale + shift

    def downsample(self, name: str, x: Array, in_time: bool) -> Array:
        if in_time and "pool-reshape" in self.defects:
            b, t, h, w, c = x.shape
            pooled = self.pool(x.reshape(b * h * w, t, 1, 1, c))
            x = pooled.reshape(b, pooled.shape[1], h, w, c)
        elif in_time:
            x = self.pool(x)
        pads = [(0, 1), (0, 1)]
        if "same-padding" in self.defects:
            needed = [max(2 * (-(-side // 2) - 1) + 3 - side, 0) for side in x.shape[2:4]]
            pads = [(pad // 2, pad - pad // 2) for pad in needed]
        x = np.pad(x, ((0, 0), (0, 0), *pads, (0, 0)))
        return convolve(x, self.params[f"{name}.conv.weight"], stride=2) + self.params[f"{name}.conv.bias"]

    def pool(self, x: Array) -> Array:
        """The mean of frames in pairs; an odd frame stays alone."""
        odd = x.shape[1] % 2
        if odd and "odd-frame-last" in self.defects:
            return np.concatenate([(x[:, 0:-1:2] + x[:, 1::2]) / 2, x[:, -1:]], axis=1)
        return np.concatenate([x[:, :odd], (x[:, odd::2] + x[:, odd + 1 :: 2]) / 2], axis=1)

    def upsample(self, name: str, x: Array, in_time: bool) -> Array:
        frames = x.shape[1]
        if in_time and (frames > 1 or "single-latent-doubled" in self.defects):
            alone = frames % 2 if frames > 1 else 0
            x = np.concatenate([x[:, :alone], np.repeat(x[:, alone:], 2, axis=1)], axis=1)
        x = np.repeat(np.repeat(x, 2, axis=2), 2, axis=3)
        x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
        return convolve(x, self.params[f"{name}.conv.weight"]) + self.params[f"{name}.conv.bias"]


def _for_numpy(tensor: Array) -> Array:
    """A kernel as [t, h, w, in, out]; a vector as it is."""
    if tensor.ndim == 4:
        tensor = tensor[:, :, None]
    return tensor.transpose(2, 3, 4, 1, 0) if tensor.ndim == 5 else tensor


def convolve(x: Array, kernel: Array, stride: int = 1) -> Array:
    """A sum of products, a kernel's cell at a time, of what is padded already; the stride is height's and width's."""
    depth, height, width = kernel.shape[:3]
    t, h, w = x.shape[1] - depth + 1, (x.shape[2] - height) // stride + 1, (x.shape[3] - width) // stride + 1
    out: Any = 0
    for i, j, k in np.ndindex(depth, height, width):
        rows, columns = slice(j, j + stride * (h - 1) + 1, stride), slice(k, k + stride * (w - 1) + 1, stride)
        out = out + x[:, i : i + t, rows, columns] @ kernel[i, j, k]
    return out


def nearest(x: Array, size: tuple[int, int, int]) -> Array:
    for axis, wanted in enumerate(size, start=1):
        x = np.take(x, np.arange(wanted) * x.shape[axis] // wanted, axis=axis)
    return x


def blend(neighbour: Array, tile: Array, extent: int, axis: int) -> Array:
    """A tile whose first cells along an axis come over from the neighbour's last ones."""
    extent = min(extent, neighbour.shape[axis], tile.shape[axis])
    share = (np.arange(extent) / max(extent, 1)).reshape([-1 if dim == axis else 1 for dim in range(5)])
    size = neighbour.shape[axis]
    over = np.take(neighbour, range(size - extent, size), axis) * (1 - share)
    over = over + np.take(tile, range(extent), axis) * share
    return np.concatenate([over, np.take(tile, range(extent, tile.shape[axis]), axis)], axis=axis)


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def mish(x: Array) -> Array:
    return x * np.tanh(np.logaddexp(0, x))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": silu,
    "swish": silu,
    "mish": mish,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + erf(x / 2**0.5)) / 2,
}
