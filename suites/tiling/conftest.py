"""What the tiling tests share: the reference, given back as it was loaded."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import twinvae
from suites.conftest import Load
from twinvae.bench.bars import precise
from twinvae.bench.options import Model
from twinvae.registry import REFERENCE


@pytest.fixture
def reference(load: Load, model: Model, dtype: str) -> Iterator[twinvae.VideoVAE]:
    """diffusers on PyTorch: its own tiled loops and its own blends."""
    vae = load(REFERENCE, model, "eager", precise(dtype))
    settings = dict(vars(vae))
    yield vae
    vars(vae).update(settings)
