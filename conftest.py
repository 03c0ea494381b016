"""pytest for the whole project: the suites' options and records (unit tests under `tests/` take neither)."""

from twinvae.bench import PLUGINS
from twinvae.bench.environment import prepare_jax

prepare_jax()

pytest_plugins = PLUGINS
