"""pytest for the whole project: the suites' options and records (unit tests under `tests/` take neither)."""

import os

# Before JAX takes three quarters of an accelerator's memory: PyTorch is compared with in the same process.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

pytest_plugins = ["suites.harness.options", "suites.harness.plugin"]
