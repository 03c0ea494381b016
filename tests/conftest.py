"""What all unit tests share: one thread for PyTorch, and shapes that are checked where signatures give them."""

from __future__ import annotations

from collections.abc import Iterator

import jaxtyping
import pytest
import torch

# Before anything imports them: what a program is traced with is checked, and the program stays as it is. The modules
# that the options of pytest have loaded by then (`twinvae.jax.backend` and what it needs) are not among them.
SHAPES_CHECKED = (
    "impl_flax.autoencoder", "impl_flax.blocks", "impl_flax.convolution", "impl_flax.layers", "impl_flax.params",
    "twinvae.jax.convolution", "twinvae.jax.slabs", "twinvae.jax.winograd",
)  # fmt: skip
jaxtyping.install_import_hook(SHAPES_CHECKED, "beartype.beartype")


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> Iterator[None]:
    """Threads cost more than they bring on clips this small, several times so on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
