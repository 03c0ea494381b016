"""The compilers that are run without their devices: libtpu's, and that of JAX's plug-in for NVIDIA's cards."""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from typing import Any

from jax.sharding import Sharding, SingleDeviceSharding

from twinvae.bench.aot import cuda, libtpu, tpu_compiler
from twinvae.jax.chips import CHIPS

TOPOLOGIES = {"v6e": {4: "v6e:2x2", 8: "v6e:2x4", 16: "v6e:4x4"}}  # by chips


def platform_of(chip: str) -> str:
    """The platform of numbers that a compiler gives without its device: "tpu-v6e-aot" for "v6e"."""
    return f"{CHIPS[chip].kind}-{chip.removeprefix('tpu')}-aot"


def chip_of(platform: str) -> str | None:
    """The chip of such a platform; None of any other."""
    return next((chip for chip in CHIPS if platform_of(chip) == platform), None)


def missing(chip: str) -> str:
    """Why there is no compiler for a chip here, and the line that mends it; empty where there is one."""
    if CHIPS[chip].kind == "gpu":
        return cuda.missing()
    return "" if libtpu.installed() else libtpu.INSTALL


def compiler_version(chip: str) -> str:
    plugin = f"{cuda.PLUGIN} {cuda.installed()}" if CHIPS[chip].kind == "gpu" else f"libtpu {libtpu.installed()}"
    return f"{plugin}, jaxlib {version('jaxlib')}"


def target(chip: str) -> str:
    """What programs are compiled for, in short: a topology, or a card and a digest of its description."""
    if CHIPS[chip].kind == "tpu":
        return CHIPS[chip].topology
    return f"{chip} {hashlib.sha256(cuda.description(chip).encode()).hexdigest()[:8]}"


def devices_of(chip: str, count: int) -> tuple[tuple[Any, ...], str]:
    """At least so many devices of a chip that are connected, and what programs for them are compiled for, in short.

    Raises:
        RuntimeError: its compiler is missing, or in use; the message says what to do.
        ValueError: more devices than any topology has that is known here.
    """
    if CHIPS[chip].kind == "gpu":
        return cuda.devices(chip, count), target(chip) + (f" x{count}" if count > 1 else "")
    known = TOPOLOGIES.get(chip, {4: CHIPS[chip].topology})
    enough = min((size for size in known if size >= count), default=None)
    if enough is None:
        raise ValueError(f"{count} devices of a {chip}: known are {', '.join(known.values())}")
    return tpu_compiler.devices(known[enough]), known[enough]


def sharding_on(chip: str, count: int = 1) -> Sharding:
    """One device of a chip; of a TPU, several with the rows of a frame dealt out among them.

    Raises:
        RuntimeError: its compiler is missing, or in use; the message says what to do.
        ValueError: several devices of a GPU.
    """
    if CHIPS[chip].kind == "tpu":
        return tpu_compiler.sharding_on(chip, count)
    if count > 1:
        raise ValueError(f"{count} devices of an {chip}: programs for GPUs are compiled for one card; choose a TPU")
    return SingleDeviceSharding(cuda.device(chip))
