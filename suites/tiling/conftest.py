"""What the tiling tests share: the reference."""

from __future__ import annotations

import pytest

import twinvae
from suites.conftest import Load
from twinvae.bench.bars import precise
from twinvae.bench.options import Model
from twinvae.registry import REFERENCE


@pytest.fixture
def reference(load: Load, model: Model, dtype: str) -> twinvae.VideoVAE:
    """diffusers on PyTorch: its own tiled loops and its own blends."""
    return load(REFERENCE, model, "eager", precise(dtype))
