"""Memory: sizes as people write them, what devices have, and how much a program or a call needs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from math import prod
from typing import Any

import jax

from twinvae.config import VAEConfig
from twinvae.forms import Form
from twinvae.frames import decoded_frames
from twinvae.tiles import Operation

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
         "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip
GIB = 2**30
# What the compiler leaves to a program on one device, in GiB by device kind, as it says when one does not fit.
TPU_USABLE = {"TPU v5 lite": 15.75, "TPU v5": 95.74, "TPU v6 lite": 31.25, "TPU7x": 94.75}
# No program has been seen to need more than this many times its largest activation, beside parameters and cache.
ROUGHLY = 16


def parse_size(size: str | int) -> int:
    """Bytes of a size such as "16GiB", "15.75 GiB", "16 GB" or 16_000_000_000.

    Raises:
        ValueError: not a size, or not above zero.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        found = size
    else:
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([KMGT]?I?B)?\s*", str(size), re.IGNORECASE)
        found = int(float(match[1]) * UNITS[(match[2] or "B").upper()]) if match else 0
    if found <= 0:
        raise ValueError(f"{size!r} is no size in memory: write it as '16GiB', '15.75 GiB' or '16 GB', or give bytes")
    return found


def shown(size: float) -> str:
    """A number of bytes as people read it."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"


def usable_bytes(device: jax.Device) -> int | None:
    """What a program may use on a device: of a CPU, the machine's memory; None where it is not known."""
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if device.device_kind in TPU_USABLE:
        return int(TPU_USABLE[device.device_kind] * GIB)
    return (device.memory_stats() or {}).get("bytes_limit")


def peak_bytes(compiled: jax.stages.Compiled) -> int:
    """The compiler's own peak of a program on each device, arguments and outputs included."""
    memory = compiled.memory_analysis()
    shardings = jax.tree.leaves(compiled.input_shardings)
    platform = next(device.platform for sharding in shardings for device in sharding.device_set)
    # XLA for CUDA says 0 of a program that it finds in JAX's cache: what such a program is laid out in is the most.
    if platform != "cpu" and memory.peak_memory_in_bytes > 0:
        return memory.peak_memory_in_bytes
    # That of a CPU leaves out what lies between its operations, which it lays out as one block.
    arguments_and_outputs = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return arguments_and_outputs + memory.temp_size_in_bytes


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays (or their shapes) in a tree."""
    return sum(prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def largest_activation(config: VAEConfig, operation: Operation, piece: tuple[int, int, int, int]) -> int:
    """Elements of the largest activation of a frame batch [b, t, h, w], of video to encode or latents to decode.

    The decoder's last upsampling keeps the channels of the level before.
    """
    batch, frames, height, width = piece
    widths = config.block_out_channels
    if operation == "encode":
        return batch * frames * height * width * widths[0]
    pixels = height * width * config.spatial_compression**2
    return batch * decoded_frames(frames, config.temporal_levels) * pixels * max(widths[:2])


@dataclass(frozen=True)
class Plan:
    """What a call will do, and what it needs.

    Attributes:
        operation, shape: of the call; the shape is that of its input.
        form: how a frame batch is computed (see `twinvae.forms`).
        tiles: whether frames are cut into diffusers' overlapping tiles, which gives other numbers.
        peak_bytes: predicted, with the parameters, the clip and what comes out of it; None where nothing was
            compiled, because the device has much more than any form could need.
        budget_bytes: None where it is not known what the device has.
        considered: peaks of the forms that were tried, the fastest first; None where one does not even compile.
    """

    operation: Operation
    shape: tuple[int, ...]
    form: Form
    tiles: bool
    peak_bytes: int | None
    budget_bytes: int | None
    considered: tuple[tuple[str, int | None], ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the numbers are those of the untiled call."""
        return not self.tiles

    def __str__(self) -> str:
        needs = "far below the budget" if self.peak_bytes is None else f"{shown(self.peak_bytes)} predicted"
        budget = "" if self.budget_bytes is None else f", budget {shown(self.budget_bytes)}"
        tried = "; ".join(f"{form}: {shown(peak) if peak else 'does not fit the device'}"
                          for form, peak in self.considered)  # fmt: skip
        tiled = " in tiles" if self.tiles else ""
        return f"{self.operation} {list(self.shape)}: {self.form}{tiled}, {needs}{budget}" + (
            f" ({tried})" if tried else ""
        )
