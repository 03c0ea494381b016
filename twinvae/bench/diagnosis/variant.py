"""The reference once more, in torch and piece by piece, so that any piece of it can be done as a port might do it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from twinvae import arrays
from twinvae.blocks import block_names
from twinvae.config import VAEConfig
from twinvae.frames import DECODED_TOGETHER, ENCODED_TOGETHER, frame_batches
from twinvae.tiles import Operation

Clip = torch.Tensor  # [b, c, t, h, w]
Cache = dict[str, torch.Tensor]
TIME, HEIGHT, WIDTH = 2, 3, 4

# How diffusers does each piece; a change gives one of them another value.
RIGHT: dict[str, Any] = {
    "together": None, "remainder": "first", "cache": "carried", "handed on": "each batch's", "items": "apart",
    "time padding": "first",
    "space padding": "zeros", "kernel": "as it is", "bias": "added", "groups": "in a row", "number of groups": None,
    "statistics": "frame batch", "variance": "biased", "epsilon": None, "affine": "applied", "activation": None,
    "last activation": "applied", "condition": "y * norm + b", "resized": "first frame alone", "shortcut": "added",
    "temporal pooling": "average", "pooled axes": "time", "odd frame": "first", "downsample padding": "after",
    "single latent": "once", "odd latents": "first once", "doubled frames": "a a b b", "upsampling": "nearest",
    "quant convs": "applied", "clip": "never", "input": None, "output": None, "weights": "float64",
    "neighbours": "blended", "ramp": "i / n", "overlaps": "as set",
    "tile sizes": "as set", "compressed levels": "first",
}  # fmt: skip


class Change(NamedTuple):
    """A piece done another way: everywhere, or in one module and what is inside of it."""

    field: str
    value: Any
    where: str = ""


class Settings(NamedTuple):
    """What is set on a VAE before a call: frames of a batch, and tiles in pixels with their overlaps, or none."""

    together: int | None = None
    tile: tuple[int, int] | None = None
    overlap: tuple[float, float] = (1 / 6, 1 / 5)


UNSET = Settings()


def _swapped_halves(x: Clip) -> Clip:
    return torch.cat(x.chunk(2, dim=1)[::-1], dim=1)


def _as_rows(x: Clip) -> Clip:
    """Read as if height and width were stored the other way around."""
    return x.permute(0, 2, 4, 3, 1).reshape(x.permute(0, 2, 3, 4, 1).shape).permute(0, 4, 1, 2, 3)


# What may become of a clip before or after the network.
CLIPS: dict[str, Callable[[Clip], Clip]] = {
    "with its frames in reverse": lambda x: x.flip(TIME),
    "mirrored top to bottom": lambda x: x.flip(HEIGHT),
    "mirrored left to right": lambda x: x.flip(WIDTH),
    "with its channels in reverse": lambda x: x.flip(1),
    "with height and width exchanged": lambda x: x.transpose(HEIGHT, WIDTH),
    "with height and width exchanged where it is stored": _as_rows,
    "with its items in reverse": lambda x: x.flip(0),
    "with mean and log-variance exchanged": _swapped_halves,
    "mapped from [-1, 1] to [0, 1]": lambda x: (x + 1) / 2,
    "mapped from [0, 1] to [-1, 1]": lambda x: 2 * x - 1,
    "divided by 255": lambda x: x / 255,
    "through tanh": torch.tanh,
    "rounded to float32": lambda x: x.float().double(),
    "rounded to float16": lambda x: x.half().double(),
    "rounded to bfloat16": lambda x: x.bfloat16().double(),
    "with a standard deviation for a log-variance": lambda x: torch.cat(
        [x.chunk(2, dim=1)[0], torch.exp(0.5 * x.chunk(2, dim=1)[1].clamp(-30, 20))], dim=1
    ),
}
ACTIVATIONS: dict[str, Callable[[Clip], Clip]] = {
    "silu": F.silu, "swish": F.silu, "mish": F.mish, "gelu": F.gelu, "relu": F.relu,
    "none": lambda x: x, "gelu by tanh": lambda x: F.gelu(x, approximate="tanh"), "sigmoid": torch.sigmoid,
}  # fmt: skip


class Variant:
    """CogVideoX's VAE in float64 with some pieces done another way; with no change it is diffusers'.

    Args:
        tensors: by diffusers' names.
        changes: a later one of a field stands before an earlier one.
    """

    def __init__(self, config: VAEConfig, tensors: Mapping[str, Any], changes: Sequence[Change] = ()):
        self.config = config
        self.tensors = {name: arrays.to_torch(arrays.to_numpy(tensor)).double() for name, tensor in tensors.items()}
        self.changes = tuple(changes)

    def changed(self, *changes: Change) -> Variant:
        other = object.__new__(Variant)
        other.config, other.tensors, other.changes = self.config, self.tensors, (*self.changes, *changes)
        return other

    def how(self, field: str, name: str = "") -> Any:
        for change in reversed(self.changes):
            inside = not change.where or name == change.where or name.startswith(f"{change.where}.")
            if change.field == field and inside:
                return change.value
        return RIGHT[field]

    @torch.no_grad()
    def run(self, operation: Operation, clip: np.ndarray, settings: Settings = UNSET) -> np.ndarray:
        """Moments or video, channel-last."""
        return self.parts(operation, clip, settings)["output"]

    @torch.no_grad()
    def parts(self, operation: Operation, clip: np.ndarray, settings: Settings = UNSET) -> dict[str, np.ndarray]:
        """Every block's output by diffusers' name, frame batches joined (nothing of tiles), and the "output"."""
        x = torch.from_numpy(np.asarray(clip, np.float64)).permute(0, 4, 1, 2, 3)
        x = self._through(self.how("input"), x)
        noted: dict[str, list[Clip]] = {}
        tiled = settings.tile is not None and self._needs_tiles(operation, x, settings)
        if tiled:
            out, noted = self._tiled(operation, x, settings), {}
        elif self.how("items") == "leaking":
            outputs, cache, each = [], None, []
            for item in x.split(1):
                each.append(dict[str, list[Clip]]())
                out, cache = self._frames(operation, item, settings, each[-1], cache)
                outputs.append(out)
            out = torch.cat(outputs)
            noted = {name: [torch.cat([torch.cat(one[name], dim=TIME) for one in each])] for name in each[0]}
        else:
            out = self._frames(operation, x, settings, noted, None)[0]
        if self.how("clip") == "untiled" and operation == "decode" and not tiled:
            out = out.clamp(-1, 1)
        if self.how("clip") == "always" and operation == "decode":
            out = out.clamp(-1, 1)
        out = self._through(self.how("output"), out)
        names = [name for name in block_names(self.config, operation) if name in noted]
        found = {name: _last(torch.cat(noted[name], dim=TIME)) for name in names}
        return found | {"output": _last(out)}

    def _through(self, change: Any, x: Clip) -> Clip:
        if change is None:
            return x
        if isinstance(change, str):
            return CLIPS[change](x)
        if isinstance(change, float):
            return x * change
        return x[:, list(change)]  # channels in another order

    # Frame batches and tiles

    def _frames(
        self, operation: Operation, x: Clip, settings: Settings, noted: dict[str, list[Clip]], cache: Cache | None
    ) -> tuple[Clip, Cache | None]:
        default = ENCODED_TOGETHER if operation == "encode" else DECODED_TOGETHER
        together = self.how("together") or settings.together or default
        if together == "all":
            together = x.shape[TIME]
        outputs = []
        for batch in batches(x.shape[TIME], together, self.how("remainder")):
            part = x[:, :, batch]
            new: Cache = {}
            out = self._network(operation, part, cache or {}, new, noted)
            how = self.how("handed on")
            cache = None if how == "nothing" else cache if how == "the first batch's" and cache else new
            outputs.append(out)
        return torch.cat(outputs, dim=TIME), cache

    def _needs_tiles(self, operation: Operation, x: Clip, settings: Settings) -> bool:
        cells = self.config.spatial_compression if operation == "decode" else 1
        height, width = self._tile(settings)
        return x.shape[HEIGHT] > height // cells or x.shape[WIDTH] > width // cells

    def _tile(self, settings: Settings) -> tuple[int, int]:
        height, width = settings.tile or (0, 0)
        return (width, height) if self.how("tile sizes") == "exchanged" else (height, width)

    def _tiled(self, operation: Operation, x: Clip, settings: Settings) -> Clip:
        into, out_of = list(self._tile(settings)), list(self._tile(settings))
        cells = [side // self.config.spatial_compression for side in into]
        into, out_of = (into, cells) if operation == "encode" else (cells, out_of)
        factors = settings.overlap
        factors = {"exchanged": factors[::-1], "diffusers' defaults": (1 / 6, 1 / 5), "as set": factors}[
            self.how("overlaps")
        ]
        strides = [int(side * (1 - factor)) for side, factor in zip(into, factors, strict=True)]
        extents = [int(side * factor) for side, factor in zip(out_of, factors, strict=True)]
        limits = [side - extent for side, extent in zip(out_of, extents, strict=True)]
        rows = []
        for top in range(0, x.shape[HEIGHT], strides[0]):
            row = []
            for left in range(0, x.shape[WIDTH], strides[1]):
                tile = x[:, :, :, top : top + into[0], left : left + into[1]]
                row.append(self._frames(operation, tile, settings, {}, None)[0])
            rows.append(row)
        done: list[list[Clip]] = []
        for i, row in enumerate(rows):
            done.append([])
            for j, tile in enumerate(row):
                tile = tile.clone()
                near = done if self.how("neighbours") == "blended" else rows
                steps = [(HEIGHT, near[i - 1][j], extents[0])] if i else []
                steps += [(WIDTH, near[i][j - 1], extents[1])] if j else []
                for axis, neighbour, extent in steps:
                    tile = self._blend(neighbour, tile, extent, axis)
                done[-1].append(tile)
        return torch.cat(
            [torch.cat([tile[:, :, :, : limits[0], : limits[1]] for tile in row], dim=WIDTH) for row in done],
            dim=HEIGHT,
        )

    def _blend(self, neighbour: Clip, tile: Clip, extent: int, axis: int) -> Clip:
        extent = min(neighbour.shape[axis], tile.shape[axis], extent)
        ramp = self.how("ramp")
        if not extent or ramp == "none":
            return tile
        i = torch.arange(extent, dtype=torch.float64)
        share = {
            "i / n": i / extent, "(i + 1) / n": (i + 1) / extent, "(i + 1) / (n + 1)": (i + 1) / (extent + 1),
            "(i + 1/2) / n": (i + 0.5) / extent, "i / (n - 1)": i / max(extent - 1, 1),
            "a half": torch.full_like(i, 0.5), "reversed": 1 - i / extent,
        }[ramp]  # fmt: skip
        share = share.reshape([-1 if dim == axis else 1 for dim in range(5)])
        joined = neighbour.narrow(axis, neighbour.shape[axis] - extent, extent) * (1 - share)
        joined = joined + tile.narrow(axis, 0, extent) * share
        return torch.cat([joined, tile.narrow(axis, extent, tile.shape[axis] - extent)], dim=axis)

    # The network

    def _network(self, operation: Operation, x: Clip, old: Cache, new: Cache, noted: dict[str, list[Clip]]) -> Clip:
        config, quantised = self.config, self.how("quant convs") == "applied"

        def note(name: str, out: Clip) -> Clip:
            noted.setdefault(name, []).append(out)
            return out

        if operation == "encode":
            x = note("encoder.conv_in", self._conv("encoder.conv_in", x, old, new))
            last = len(config.block_out_channels) - 1
            for level in range(last + 1):
                block = f"encoder.down_blocks.{level}"
                for index in range(config.layers_per_block):
                    name = f"{block}.resnets.{index}"
                    x = note(name, self._resnet(name, x, None, old, new))
                if level < last:
                    name = f"{block}.downsamplers.0"
                    x = note(name, self._downsample(name, x, self._in_time(level, last)))
            for index in range(2):
                name = f"encoder.mid_block.resnets.{index}"
                x = note(name, self._resnet(name, x, None, old, new))
            x = note("encoder.norm_out", self._norm("encoder.norm_out", x, 1e-6))
            x = self._last_activation("encoder", x)
            x = note("encoder.conv_out", self._conv("encoder.conv_out", x, old, new))
            if config.use_quant_conv and quantised:
                x = note("quant_conv", self._pointwise("quant_conv", x))
            return x
        if config.use_post_quant_conv and quantised:
            x = note("post_quant_conv", self._pointwise("post_quant_conv", x))
        z = x
        x = note("decoder.conv_in", self._conv("decoder.conv_in", x, old, new))
        for index in range(2):
            name = f"decoder.mid_block.resnets.{index}"
            x = note(name, self._resnet(name, x, z, old, new))
        last = len(config.block_out_channels) - 1
        for level in range(last + 1):
            block = f"decoder.up_blocks.{level}"
            for index in range(config.layers_per_block + 1):
                name = f"{block}.resnets.{index}"
                x = note(name, self._resnet(name, x, z, old, new))
            if level < last:
                name = f"{block}.upsamplers.0"
                x = note(name, self._upsample(name, x, self._in_time(level, last)))
        x = note("decoder.norm_out", self._spatial_norm("decoder.norm_out", x, z))
        x = self._last_activation("decoder", x)
        return note("decoder.conv_out", self._conv("decoder.conv_out", x, old, new))

    def _in_time(self, level: int, last: int) -> bool:
        levels = self.config.temporal_levels
        return level < levels if self.how("compressed levels") == "first" else level >= last - levels

    def _tensor(self, name: str) -> torch.Tensor:
        dtype = self.how("weights", name.rpartition(".")[0])
        return self.tensors[name].to(getattr(torch, dtype)).double()

    def _kernel(self, name: str) -> torch.Tensor:
        weight, how = self._tensor(f"{name}.weight"), self.how("kernel", name)
        if how == "as it is":
            return weight
        if how == "left out":
            return torch.zeros_like(weight)
        axes = {"time": -3, "height": -2, "width": -1}
        if how == "mirrored in every axis":
            return weight.flip(tuple(range(2, weight.ndim)))
        if how == "height and width exchanged":
            return weight.transpose(-1, -2)
        if how == "input and output channels exchanged":
            return weight.transpose(0, 1) if weight.shape[0] == weight.shape[1] else weight
        axis = axes[how.removeprefix("mirrored in ")]
        return weight.flip(axis) if -axis <= weight.ndim - 2 else weight

    def _bias(self, name: str) -> torch.Tensor | None:
        how = self.how("bias", name)
        bias = self._tensor(f"{name}.bias")
        return None if how == "left out" else 2 * bias if how == "added twice" else bias

    def _pointwise(self, name: str, x: Clip) -> Clip:
        return F.conv3d(x, self._kernel(name), self._bias(name))

    def _conv(self, name: str, x: Clip, old: Cache, new: Cache) -> Clip:
        weight, bias = self._kernel(f"{name}.conv"), self._bias(f"{name}.conv")
        frames, side = weight.shape[2] - 1, weight.shape[3] // 2
        if frames:
            how, cached = self.how("time padding", name), old.get(name)
            first = x[:, :, :1]
            if how == "on both sides":
                before = cached[:, :, -1:] if cached is not None else first
                padded = torch.cat([before, x, x[:, :, -1:]], dim=TIME)
            elif how == "zeros on both sides":
                before = cached[:, :, -1:] if cached is not None else torch.zeros_like(first)
                padded = torch.cat([before, x, torch.zeros_like(first)], dim=TIME)
            else:
                if cached is None:
                    cached = first if how != "zeros" else torch.zeros_like(first)
                    cached = cached.repeat_interleave(frames, dim=TIME)
                short = frames - cached.shape[TIME]
                if short > 0:
                    fill = cached[:, :, :1] if self.how("cache") == "of the current input" else 0 * cached[:, :, :1]
                    cached = torch.cat([fill] * short + [cached], dim=TIME)
                padded = torch.cat([cached, x] if how != "after" else [x, cached], dim=TIME)
            kept = x if str(self.how("cache")).startswith("of the current input") else padded
            new[name] = kept[:, :, -frames:]
            if self.how("cache") == "one frame late":
                new[name] = padded[:, :, -frames - 1 : -1]
            x = padded
        how = self.how("space padding", name)
        if how != "zeros" and side:
            mode = {"replicated": "replicate", "reflected": "reflect", "around": "circular"}[how]
            return F.conv3d(F.pad(x, (side, side, side, side, 0, 0), mode=mode), weight, bias)
        return F.conv3d(x, weight, bias, padding=(0, side, side))

    def _norm(self, name: str, x: Clip, epsilon: float) -> Clip:
        groups = self.how("number of groups", name) or self.config.norm_num_groups
        changed = self.how("epsilon", name)
        epsilon = epsilon if changed is None else changed
        shape, channels = x.shape, x.shape[1]
        if channels % groups:
            groups = self.config.norm_num_groups
        statistics = self.how("statistics", name)
        if self.how("groups", name) == "every n-th channel":
            order = torch.arange(channels).reshape(channels // groups, groups).T.reshape(-1)
        else:
            order = torch.arange(channels)
        h = x[:, order]
        if statistics == "each frame":
            h = h.transpose(1, 2).reshape(-1, channels, 1, *shape[3:])
        elif statistics == "all items":
            h = h.transpose(0, 1).reshape(1, channels, -1, *shape[3:])
        elif statistics == "each pixel":
            h = h.permute(0, 2, 3, 4, 1).reshape(-1, channels, 1, 1, 1)
        grouped = h.reshape(h.shape[0], groups, -1)
        mean = grouped.mean(-1, keepdim=True)
        variance = grouped.var(-1, keepdim=True, unbiased=self.how("variance", name) == "unbiased")
        if self.how("variance", name) == "about zero":
            variance, mean = (grouped**2).mean(-1, keepdim=True), 0 * mean
        if self.how("variance", name) == "epsilon on the deviation":
            grouped = (grouped - mean) / (variance.sqrt() + epsilon)
        else:
            grouped = (grouped - mean) / (variance + epsilon).sqrt()
        h = grouped.reshape(h.shape)
        if statistics == "each frame":
            h = h.reshape(shape[0], shape[2], channels, *shape[3:]).transpose(1, 2)
        elif statistics == "all items":
            h = h.reshape(channels, shape[0], *shape[2:]).transpose(0, 1)
        elif statistics == "each pixel":
            h = h.reshape(shape[0], *shape[2:], channels).permute(0, 4, 1, 2, 3)
        h = h[:, torch.argsort(order)]
        affine = self.how("affine", name)
        if affine == "left out":
            return h
        weight, bias = (self._tensor(f"{name}.{kind}").reshape(-1, 1, 1, 1) for kind in ("weight", "bias"))
        if affine == "weight and bias exchanged":
            weight, bias = bias, weight
        if affine == "bias left out":
            bias = 0 * bias
        if affine == "1 + weight":
            weight = 1 + weight
        return h * weight + bias

    def _spatial_norm(self, name: str, f: Clip, z: Clip) -> Clip:
        how, size = self.how("resized", name), f.shape[2:]
        odd = f.shape[TIME] > 1 and f.shape[TIME] % 2 == 1
        if how == "all frames together" or not odd:
            mode = "trilinear" if how == "linearly" else "nearest"
            z = F.interpolate(z, size=size, mode=mode)
        elif how == "linearly":
            parts = (z[:, :, :1], (1, *size[1:])), (z[:, :, 1:], (size[0] - 1, *size[1:]))
            z = torch.cat([F.interpolate(part, size=to, mode="trilinear") for part, to in parts], dim=TIME)
        else:
            first = F.interpolate(z[:, :, :1], size=(1, *size[1:]))
            z = torch.cat([first, F.interpolate(z[:, :, 1:], size=(size[0] - 1, *size[1:]))], dim=TIME)
        y, b = (self._pointwise(f"{name}.{conv}.conv", z) for conv in ("conv_y", "conv_b"))
        norm = self._norm(f"{name}.norm_layer", f, 1e-6)
        return {
            "y * norm + b": lambda: norm * y + b, "(1 + y) * norm + b": lambda: norm * (1 + y) + b,
            "b * norm + y": lambda: norm * b + y, "y * norm": lambda: norm * y, "norm + b": lambda: norm + b,
            "norm": lambda: norm, "y * (norm + b)": lambda: y * (norm + b), "y * f + b": lambda: f * y + b,
        }[self.how("condition", name)]()  # fmt: skip

    def _activation(self, name: str, x: Clip) -> Clip:
        return ACTIVATIONS[self.how("activation", name) or self.config.act_fn](x)

    def _last_activation(self, half: str, x: Clip) -> Clip:
        how = self.how("last activation", half)
        return ACTIVATIONS["silu" if how == "applied" else self.config.act_fn if how == "act_fn" else how](x)

    def _resnet(self, name: str, x: Clip, z: Clip | None, old: Cache, new: Cache) -> Clip:
        # diffusers' mid blocks do not get act_fn's name wrong, nor do they get norm_eps where z conditions them
        h = x
        for index in (1, 2):
            norm = f"{name}.norm{index}"
            h = self._norm(norm, h, self.config.norm_eps) if z is None else self._spatial_norm(norm, h, z)
            h = self._conv(f"{name}.conv{index}", self._activation(name, h), old, new)
        shortcut, how = f"{name}.conv_shortcut", self.how("shortcut", name)
        if how == "left out":
            return h
        if f"{shortcut}.weight" in self.tensors:
            x = self._pointwise(shortcut, x)
        return h + x if how == "added" else (h + x) / 2**0.5

    def _downsample(self, name: str, x: Clip, in_time: bool) -> Clip:
        if in_time:
            x = self._pooled(name, x)
        pad = self.how("downsample padding", name)
        if pad == "SAME":  # as JAX and TensorFlow count it
            total = [max((-(-side // 2) - 1) * 2 + 3 - side, 0) for side in x.shape[3:]]
            sides = (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2)
        else:
            sides = {
                "after": (0, 1, 0, 1),
                "before": (1, 0, 1, 0),
                "on both sides": (1,) * 4,
                "none": (0,) * 4,
                "of the edge": (0, 1, 0, 1),
            }[pad]
        frames = x.transpose(1, 2).flatten(0, 1)
        frames = F.pad(frames, sides, mode="replicate" if pad == "of the edge" else "constant")
        out = F.conv2d(frames, self._kernel(f"{name}.conv"), self._bias(f"{name}.conv"), stride=2)
        return out.unflatten(0, (x.shape[0], x.shape[TIME])).transpose(1, 2)

    def _pooled(self, name: str, x: Clip) -> Clip:
        axes = self.how("pooled axes", name)
        b, c, t, h, w = x.shape
        if axes != "time":  # reshaped where it should have been transposed
            x = x.permute(0, 2, 3, 4, 1).reshape(b * h * w, t, c).permute(0, 2, 1).reshape(b * h * w, c, t, 1, 1)
        first, rest, last = x[:, :, :0], x, x[:, :, :0]
        if t % 2:
            odd = self.how("odd frame", name)
            if odd == "first" or t == 1:
                first, rest = x[:, :, :1], x[:, :, 1:]
            elif odd == "last":
                rest, last = x[:, :, :-1], x[:, :, -1:]
            elif odd == "left out":
                rest = x[:, :, :-1]
            elif odd == "first left out":
                rest = x[:, :, 1:]
            elif odd == "beside zeros":
                rest = torch.cat([x, torch.zeros_like(x[:, :, :1])], dim=TIME)
        pairs = rest.unflatten(TIME, (rest.shape[TIME] // 2, 2))
        how = self.how("temporal pooling", name)
        pooled = {
            "average": lambda: pairs.mean(3), "maximum": lambda: pairs.amax(3), "sum": lambda: pairs.sum(3),
            "the first of two": lambda: pairs[:, :, :, 0], "the second of two": lambda: pairs[:, :, :, 1],
        }[how]()  # fmt: skip
        x = torch.cat([first, pooled, last], dim=TIME)
        if axes == "time":
            return x
        t = x.shape[TIME]
        rows = x.reshape(b * h * w, c, t).permute(0, 2, 1)
        if axes == "reshaped there and back":
            return rows.reshape(b, t, h, w, c).permute(0, 4, 1, 2, 3)
        return rows.reshape(b, h, w, t, c).permute(0, 4, 3, 1, 2)

    def _upsample(self, name: str, x: Clip, in_time: bool) -> Clip:
        if in_time:
            frames = x.shape[TIME]
            if frames == 1:
                x = self._doubled(name, x) if self.how("single latent", name) == "twice" else x
            elif frames % 2:
                how = self.how("odd latents", name)
                if how == "first once":
                    x = torch.cat([x[:, :, :1], self._doubled(name, x[:, :, 1:])], dim=TIME)
                elif how == "last once":
                    x = torch.cat([self._doubled(name, x[:, :, :-1]), x[:, :, -1:]], dim=TIME)
                else:
                    x = self._doubled(name, x)
            else:
                how = self.how("odd latents", name)
                x = torch.cat([x[:, :, :1], self._doubled(name, x[:, :, 1:])], dim=TIME) if how == "first once always" \
                    else self._doubled(name, x)  # fmt: skip
        frames = x.transpose(1, 2).flatten(0, 1)
        if self.how("upsampling", name) == "nearest":
            frames = F.interpolate(frames, scale_factor=2.0)
        else:
            frames = F.interpolate(frames, scale_factor=2.0, mode="bilinear")
        out = F.conv2d(frames, self._kernel(f"{name}.conv"), self._bias(f"{name}.conv"), padding=1)
        return out.unflatten(0, (x.shape[0], x.shape[TIME])).transpose(1, 2)

    def _doubled(self, name: str, x: Clip) -> Clip:
        if self.how("doubled frames", name) == "a b a b":
            return torch.cat([x, x], dim=TIME)
        if self.how("doubled frames", name) == "linearly":
            return F.interpolate(x, scale_factor=(2.0, 1.0, 1.0), mode="trilinear")
        return x.repeat_interleave(2, dim=TIME)


def batches(frames: int, together: int, remainder: str = "first") -> list[slice]:
    """Which frames go through the network together: diffusers' rule, or with the remainder elsewhere."""
    if remainder == "first":
        return frame_batches(frames, together)
    starts = range(0, frames, together)
    cut = [slice(start, min(start + together, frames)) for start in starts]
    odd = frames % together
    if remainder == "with the last" and odd and len(cut) > 1:
        cut[-2:] = [slice(cut[-2].start, frames)]
    if remainder == "left out" and odd and len(cut) > 1:
        cut = cut[:-1]
    if remainder == "first, alone" and odd and len(cut) > 1:
        cut = [slice(0, odd), *(slice(start, start + together) for start in range(odd, frames, together))]
    if remainder == "first frame alone" and frames > 1:
        cut = [slice(0, 1), *(slice(start, min(start + together, frames)) for start in range(1, frames, together))]
    return cut


def modules(tensors: Sequence[str], operation: Operation) -> list[str]:
    """Modules that have a weight, and those that hold them, of one half of the VAE."""
    half = re.compile(rf"{operation[:2]}coder\.")
    inner = [name.rpartition(".")[0] for name in tensors if half.match(name) and name.endswith(".weight")]
    return list(dict.fromkeys(inner))


def _last(x: Clip) -> np.ndarray:
    return x.permute(0, 2, 3, 4, 1).contiguous().numpy()
