"""What all unit tests share: compilers that take little effort, and shapes that are checked where they are given."""

from __future__ import annotations

import os
from collections.abc import Iterator
from unittest import mock

import jaxtyping
import pytest

from twinvae.bench.effort import little_effort, quick_environment

# Before anything imports them: what a program is traced with is checked, and the program stays as it is. The modules
# that the options of pytest have loaded by then (`twinvae.jax.backend` and what it needs) are not among them.
SHAPES_CHECKED = (
    "impl_flax.autoencoder", "impl_flax.blocks", "impl_flax.convolution", "impl_flax.layers", "impl_flax.params",
    "impl_torchax.token_lowerings", "twinvae.jax.attention", "twinvae.jax.convolution", "twinvae.jax.slabs",
    "twinvae.jax.tokens", "twinvae.jax.winograd",
)  # fmt: skip
jaxtyping.install_import_hook(SHAPES_CHECKED, "beartype.beartype")


@pytest.fixture(autouse=True, scope="module")
def _effort() -> Iterator[None]:
    """What is compiled takes little effort, as small models do in the suites, also in processes that tests start."""
    with little_effort(), mock.patch.dict(os.environ, quick_environment()):
        yield
