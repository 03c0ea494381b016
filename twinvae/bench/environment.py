"""What has to stand in the environment before JAX looks for devices, by pytest or by the command."""

from __future__ import annotations

import os

from twinvae.bench.aot.cuda import expect_no_gpu
from twinvae.bench.aot.libtpu import expect_no_tpu


def prepare_jax() -> None:
    """Have JAX leave memory of an accelerator to PyTorch, which is compared with in the same process.

    Where there is no TPU and no card, their compilers are not to wait for one, nor to complain.
    What the environment says already stays.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take three quarters
    expect_no_tpu()
    expect_no_gpu()
