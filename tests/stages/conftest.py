"""What tests of stages share: a tiny pipeline's folder, and a run of it that is finished."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from stages.decode import decode
from stages.denoise import Settings, denoise
from stages.files import Text, write
from stages.model import Model
from stages.text import text
from suites.generation.tiny import PROMPT, write_pipeline
from twinvae.bench.effort import little_effort

SETTINGS = Settings(steps=2, dtype="float32", frames=1)
RECIPE = Text(model="m", parts={"tokenizer": "1"}, prompt="p", negative_prompt="", tokens=8, dtype="float32")


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory) -> Path:
    return write_pipeline(tmp_path_factory.mktemp("model") / "tiny-2b", "2b")


@pytest.fixture(scope="session")
def model(pipeline) -> Model:
    return Model(pipeline)


@pytest.fixture(scope="session")
def finished(model, tmp_path_factory) -> Path:
    """A run of all stages: one frame, two steps."""
    folder = tmp_path_factory.mktemp("finished")
    with little_effort():
        text(folder, model, PROMPT, dtype="float32")
        denoise(folder, model, SETTINGS)
        decode(folder, model, dtype="float32")
    return folder


@pytest.fixture
def run(finished, tmp_path) -> Path:
    """A copy of it, to be spoiled."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def other(pipeline, tmp_path) -> Path:
    """A copy of the pipeline's folder, to be spoiled."""
    return Path(shutil.copytree(pipeline, tmp_path / "other"))


@pytest.fixture
def small(tmp_path) -> Path:
    """A file of a text stage, with one small tensor."""
    path = tmp_path / "text.safetensors"
    write(path, {"prompt": np.arange(6.0, dtype=np.float32).reshape(2, 3)}, RECIPE)
    return path
