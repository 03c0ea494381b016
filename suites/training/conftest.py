"""What tests of training share: clips to train on, and the programs of steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from impl_flax.train.clips import crops
from impl_flax.train.recipes import Recipe
from suites.training.flax_steps import Training
from twinvae.bench.plugin import skip_without_compiler


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without its compiler there is no such platform: its tests are skipped, and what was measured of it stays."""
    skip_without_compiler(config, items, Path(__file__).parent)


@pytest.fixture
def given(clip) -> Callable[[Recipe], list[np.ndarray]]:
    """`given(recipe)`: the crops of each of its steps, in bytes, of a clip twice as large."""

    def given(recipe: Recipe) -> list[np.ndarray]:
        stage = recipe.stages[0]
        video = clip(2 * stage.frames, 2 * stage.height, 2 * stage.width)[0]
        source = {"clip": ((video + 1) * 127.5).round().astype(np.uint8)}
        return [crops(source, stage, recipe.seed, step) for step in range(recipe.steps)]

    return given


@pytest.fixture
def training(once) -> Callable[[Recipe], Training]:
    """`training(recipe)`: its program, compiled when it is first asked for."""

    def training(recipe: Recipe) -> Training:
        return once((__name__, recipe), lambda: Training(recipe))

    return training
