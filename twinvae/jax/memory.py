"""Memory: what devices have, and how much a program needs."""

from __future__ import annotations

import os
from math import prod
from typing import Any

import jax

from twinvae.jax.chips import CHIPS


def usable_bytes(device: jax.Device) -> int | None:  # pyright: ignore[reportInvalidTypeForm]  # jax has it as a variable
    """What a program may use on a device: of a CPU, the machine's memory; None where it is not known."""
    if device.platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    listed = next((chip for chip in CHIPS.values() if chip.device_kind == device.device_kind), None)
    if listed and listed.kind == "tpu":
        return listed.usable_bytes
    try:
        return (device.memory_stats() or {}).get("bytes_limit")
    except jax.errors.JaxRuntimeError:  # a compiler's device, which is not there
        return listed.usable_bytes if listed else None


def peak_bytes(compiled: jax.stages.Compiled) -> int:
    """The compiler's own peak of a program on each device, arguments and outputs included."""
    memory = compiled.memory_analysis()
    # XLA for CUDA says 0 of a program that it finds in JAX's cache: what such a program is laid out in is the most.
    if compiled_for(compiled) != "cpu" and memory.peak_memory_in_bytes > 0:
        return memory.peak_memory_in_bytes
    # That of a CPU leaves out what lies between its operations, which it lays out as one block.
    arguments_and_outputs = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return arguments_and_outputs + memory.temp_size_in_bytes


def compiled_for(compiled: jax.stages.Compiled) -> str:
    """The platform of a program's devices, as they spell it."""
    shardings = jax.tree.leaves(compiled.input_shardings)
    return next(device.platform for sharding in shardings for device in sharding.device_set)


def tree_bytes(tree: Any) -> int:
    """Bytes of all arrays (or their shapes) in a tree."""
    return sum(prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
