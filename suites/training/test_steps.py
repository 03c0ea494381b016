"""Steps of training, held to PyTorch's on the same clips and noise; with remat, to those without."""

from __future__ import annotations

import numpy as np
import pytest

from suites.training import cases
from suites.training.bars import APART, CURVE, LOSS, PEAK, REMAT, SHARE, STEP
from suites.training.flax_steps import farthest, noises
from suites.training.torch_steps import TorchTraining
from twinvae.bench.bars import hold

KEPT = {"weights": "weights", "first moments": "first", "second moments": "second"}  # as a record calls them


@pytest.mark.clip_frames(2 * cases.STEP.frames)
@pytest.mark.cases("backend, dtype", cases.trained)
def test_a_step_leaves_the_weights_and_moments_of_torchs_adamw(backend, dtype, given, training, record):
    recipe = cases.recipe(cases.TRAINED, cases.STEP, compute=dtype)
    clips, tensors = given(recipe), cases.TRAINED.tensors()
    found, expected = training(recipe).run(tensors, clips), TorchTraining(recipe, tensors)
    loss = expected.step(clips[0], noises(recipe, 1)[0])
    apart = {name: farthest(getattr(found, part), getattr(expected.kept(), part)) for name, part in KEPT.items()}
    shape = "x".join(map(str, clips[0].shape))
    hold(record, STEP, {LOSS: abs(found.losses[0] / loss - 1)}, "a step", mode="jit", shape=shape)
    for metric, (value, tensor) in apart.items():
        hold(record, STEP, {metric: value}, "a step", mode="jit", shape=shape, note=f"most: {tensor}")


@pytest.mark.clip_frames(2 * cases.CURVE.frames)
@pytest.mark.cases("model, backend, dtype", cases.seeded)
def test_losses_go_the_way_of_torchs(model, backend, dtype, given, training, record, exhibit):
    recipe = cases.recipe(model, cases.CURVE, compute=dtype)
    clips, tensors = given(recipe), model.tensors()
    found, reference = training(recipe).run(tensors, clips).losses, TorchTraining(recipe, tensors)
    expected = np.array([reference.step(*pair) for pair in zip(clips, noises(recipe, len(clips)), strict=True)])
    assert expected[-5:].mean() < 0.9 * expected[:5].mean(), "nothing was learnt that could go wrong"
    apart = np.abs(found / expected - 1)
    shape = "x".join(map(str, clips[0].shape))
    hold(record, CURVE, {LOSS: apart.max()}, f"{len(clips)} steps", mode="jit", shape=shape)
    exhibit(f"losses, {model.label}", {"found": found, "expected": expected, "apart": apart})


@pytest.mark.clip_frames(2 * cases.CURVE.frames)
@pytest.mark.cases("model, backend, dtype", cases.seeded)
def test_remat_changes_no_gradient_and_takes_less_memory(model, backend, dtype, given, training, record):
    recipe = cases.recipe(model, cases.CURVE, compute=dtype)
    clips, tensors = given(recipe)[:1], model.tensors()
    plain, again = training(recipe), training(recipe.model_copy(update={"remat": True}))
    expected, found = (side.run(tensors, clips) for side in (plain, again))
    value, tensor = farthest(found.first, expected.first)  # the gradient, a tenth of it
    fields = {"mode": "jit", "shape": "x".join(map(str, clips[0].shape))}
    hold(record, REMAT, {APART: value}, "remat", **fields, note=f"most: {tensor}")
    hold(record, REMAT, {PEAK: again.peak / 1e6, SHARE: again.peak / plain.peak}, "remat", **fields, of_compiler=True)
