"""A step of training held to PyTorch's, and to itself where only the way of computing it differs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

import twinvae
from impl_flax.train import loss as losses
from impl_flax.train import step as steps
from impl_flax.train.recipes import Recipe, Stage
from impl_flax.train.step import abstract_state, begin, make_step, pure_step
from suites.training.flax_steps import Steps, farthest, noises
from suites.training.torch_steps import TorchTraining
from twinvae import arrays
from twinvae.bench.effort import little_effort
from twinvae.config import DOWN_BLOCK, UP_BLOCK, VAEConfig
from twinvae.seeded import seeded_tensors

CONFIG = VAEConfig(
    block_out_channels=(4, 8), down_block_types=(DOWN_BLOCK,) * 2, up_block_types=(UP_BLOCK,) * 2, latent_channels=2,
    layers_per_block=1, norm_num_groups=2,
)  # fmt: skip
STAGE = Stage(steps=3, clips=2, frames=9, height=8, width=12)
RECIPE = Recipe(config=CONFIG, stages=(STAGE,), learning_rate=1e-3, warmup=0, clip_norm=0.1, kl=0.1, compute="float64")
STEPS = 2


def clips() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (2, 9, 8, 12, 3), np.uint8)


def after(recipe: Recipe, steps: int = STEPS):
    """The state after each step, and the last one's numbers."""
    with little_effort(), arrays.dtype_scope(np.dtype(np.float64)):
        state, numbers, run = begin(recipe, seeded_tensors(recipe.config, 0)), {}, jax.jit(pure_step(recipe))
        states = [state]
        for _ in range(steps):
            state, numbers = run(state, jnp.asarray(clips()))
            states.append(state)
        return jax.tree.map(np.asarray, (states, numbers))


@pytest.fixture(scope="module")
def plain():
    return after(RECIPE)


def far(found, expected) -> float:
    """The largest error relative to a tensor's norm."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    return max(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30) for a, b in pairs)


def test_weights_and_moments_are_torchs_after_two_steps(plain):
    (*_, last), numbers = plain
    reference = TorchTraining(RECIPE, seeded_tensors(CONFIG, 0))
    losses = [reference.step(clips(), noise) for noise in noises(RECIPE, STEPS)]
    assert numbers["loss"] == pytest.approx(losses[-1], rel=1e-12)
    found = Steps(RECIPE, np.array(losses), last)
    for part in ("weights", "first", "second"):
        assert farthest(getattr(found, part), getattr(reference.kept(), part))[0] <= 1e-10


def test_a_step_in_parts_and_of_what_is_computed_again_changes_no_number(plain):
    states, _ = after(RECIPE.model_copy(update={"remat": True, "accumulate": 2}), 1)
    (_, expected, _), _ = plain
    assert far(states[-1].weights, expected.weights) <= 1e-12
    assert far(states[-1].optimiser, expected.optimiser) <= 1e-11  # moments are what gradients are told from


def test_what_a_loss_is_made_of_is_added_up_in_float32_where_clips_are_bfloat16(monkeypatch):
    draws = np.random.default_rng(0).normal(size=(3, 1, 9, 16, 24, 3)).astype(np.float32)
    mean, log_variance, video = (jnp.asarray(one, jnp.bfloat16) for one in draws)
    monkeypatch.setattr(losses, "encode", lambda model, video: (mean, log_variance))
    monkeypatch.setattr(losses, "decode", lambda model, latents: latents)
    recipe = RECIPE.model_copy(update={"compute": "bfloat16"})
    _, parts = losses.loss(recipe, None, video, jnp.zeros_like(video))
    _, exact = losses.loss(recipe, None, np.float64(video), jnp.zeros_like(video))
    exact |= {"kl": losses.divergence(np.float64(mean), np.float64(log_variance))}
    for name, part in parts.items():
        assert float(part) == pytest.approx(float(exact[name]), rel=1e-5), name


def test_a_decoder_trained_alone_leaves_the_encoder_as_it_is():
    # diffusers' own are as wide as the video is, and not as the latents are.
    quant = {"use_quant_conv": True, "use_post_quant_conv": True, "latent_channels": CONFIG.out_channels}
    config = CONFIG.model_copy(update=quant)
    (before, state), _ = after(RECIPE.model_copy(update={"part": "decoder", "config": config}), 1)
    changed = {name.split(".")[0] for name, weight in state.weights.items() if (weight != before.weights[name]).any()}
    assert changed == {"decoder", "post_quant_conv"}


# How a step is dealt out does not depend on how much there is of it.
LEAST = RECIPE.model_copy(update={
    "compute": "float32", "config": CONFIG.model_copy(update={
        "block_out_channels": (4,), "down_block_types": (DOWN_BLOCK,), "up_block_types": (UP_BLOCK,),
    }),
})  # fmt: skip
IMAGES = jax.ShapeDtypeStruct((2, 1, 4, 4, 3), "uint8")


def test_a_step_on_a_mesh_deals_clips_out_and_keeps_weights_on_every_device():
    step = make_step(LEAST, twinvae.make_mesh(clips=1, devices=jax.devices()[:1]))
    with little_effort():
        shardings = step.lower(abstract_state(LEAST), IMAGES).compile().input_shardings[0]
    weights, (dealt,) = jax.tree.leaves(shardings[0]), jax.tree.leaves(shardings[1])
    assert dealt.spec == PartitionSpec("clips")
    assert {one.spec for one in weights} == {PartitionSpec()}


def test_a_new_state_takes_the_old_ones_place_on_one_device_and_on_two(monkeypatch):
    state, step = abstract_state(LEAST), pure_step(LEAST)
    monkeypatch.setattr(steps, "pure_step", lambda recipe: step)  # traced once
    for mesh in (None, AbstractMesh((2,), ("clips",))):
        lowered = make_step(LEAST, mesh).trace(state, IMAGES).lower(lowering_platforms=("cpu",))
        assert lowered.as_text().count("tf.aliasing_output") == len(jax.tree.leaves(state)), mesh


def test_the_average_follows_the_weights(plain):
    (begun, one, two), _ = plain
    for name, weight in two.weights.items():
        early = 0.1 * begun.weights[name] + 0.9 * one.weights[name]
        expected = 2 / 11 * early + 9 / 11 * weight
        np.testing.assert_allclose(two.average[name], expected, rtol=1e-12, atol=1e-15)
