"""libtpu, which holds the TPU compiler: which chips it compiles for, and how it is loaded where there is no TPU."""

from __future__ import annotations

import glob
import os
from importlib.metadata import PackageNotFoundError, version

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
