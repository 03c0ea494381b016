"""libtpu, which holds the TPU compiler: which chips it compiles for, and how it is loaded where there is no TPU."""

from __future__ import annotations

import glob
import os
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

INSTALL = "the TPU compiler is not installed: pip install -c constraints.txt '.[tpu-aot]'"
# What libtpu asks a TPU's host for, and complains of on stderr where there is none.
WITHOUT_A_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v6e-1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing is shared, and so nothing has to be locked
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}


class Chip(NamedTuple):
    """A TPU that programs are compiled for.

    Args:
        topology: its name for libtpu, of a host with four chips.
        memory: what people call its memory, in GB.
        usable_gib: what a program on one device may take, as the compiler says when one does not fit.
        devices: on a chip; programs see them apart, each with its own half of the chip's memory.
    """

    topology: str
    memory: int
    usable_gib: float
    devices: int = 1

    @property
    def usable_bytes(self) -> int:
        return int(self.usable_gib * 2**30)


CHIPS = {
    "v5e": Chip("v5e:2x2", 16, 15.75),
    "v6e": Chip("v6e:2x2", 32, 31.25),
    "v5p": Chip("v5p:2x2x1", 95, 95.74),
    "tpu7x": Chip("tpu7x:2x2x1", 192, 94.75, devices=2),
}


def platform_of(chip: str) -> str:
    """The platform of numbers that the TPU compiler gives without a TPU: "tpu-v6e-aot" for "v6e"."""
    return f"tpu-{chip.removeprefix('tpu')}-aot"


def chip_of(platform: str) -> str | None:
    """The chip of such a platform; None of any other."""
    return next((chip for chip in CHIPS if platform_of(chip) == platform), None)


def installed() -> str:
    """The version of libtpu, empty where it is not installed."""
    try:
        return version("libtpu")
    except PackageNotFoundError:
        return ""


def expect_no_tpu() -> None:
    """Tell libtpu, before JAX loads it, that this machine has no TPU, unless it has one."""
    if not glob.glob("/dev/accel*") and not glob.glob("/dev/vfio/[0-9]*"):
        for name, value in WITHOUT_A_TPU.items():
            os.environ.setdefault(name, value)
