"""pytest for the whole project: the suites' options and records (unit tests under `tests/` take neither)."""

import os

from twinvae.bench import PLUGINS
from twinvae.bench.aot.libtpu import expect_no_tpu

# Before JAX takes three quarters of an accelerator's memory: PyTorch is compared with in the same process.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
expect_no_tpu()  # before JAX loads libtpu, where that is installed for its compiler

pytest_plugins = PLUGINS
