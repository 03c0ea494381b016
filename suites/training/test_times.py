"""How long a step takes: the product's and PyTorch's in turn."""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import pytest

from impl_flax.train.recipes import Stage
from impl_flax.train.step import begin
from suites.training import cases
from suites.training.bars import OVER_PYTORCH, TIME
from suites.training.flax_steps import Training, noises
from suites.training.torch_steps import TorchTraining
from twinvae.bench.timing import ratio, time_in_turn
from twinvae.jax.kept import keeping

ROUNDS, PATIENCE = 10, 60.0


@pytest.fixture(autouse=True)
def _effort() -> None:
    """Programs are compiled and run as users have them, with all effort (see the suites' fixture of the same name)."""


@pytest.fixture(autouse=True)
def _kept_programs() -> Iterator[None]:
    with keeping(None):
        yield


@pytest.mark.clip_frames(18)
@pytest.mark.cases("backend, dtype", cases.timed)
def test_a_step_takes_less_time_than_torchs(backend, dtype, given, record):
    recipe = cases.recipe(cases.TRAINED, Stage(steps=1, clips=1), compute=dtype)
    clips, tensors, noise = given(recipe)[0], cases.TRAINED.tensors(), noises(recipe, 1)[0]
    program, reference = Training(recipe).program, TorchTraining(recipe, tensors)
    state = begin(recipe, tensors)

    def step() -> None:
        nonlocal state
        state, numbers = program(state, jnp.asarray(clips))
        float(numbers["loss"])

    contenders = {"flax": step, "torch": lambda: reference.step(clips, noise)}
    for run in contenders.values():
        run()
    found = ratio(time_in_turn(contenders, ROUNDS, patience=PATIENCE), "flax", "torch")
    record(case="a step's time", metric=OVER_PYTORCH, mode="jit", shape="x".join(map(str, clips.shape)), kind="ratio",
           value=found.value, interval=found.interval, runs=max(1, found.runs), note=found.note,
           **TIME[OVER_PYTORCH].fields)  # fmt: skip
