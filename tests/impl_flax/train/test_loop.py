"""A training that is stopped, killed, full of NaN, or given what it cannot use."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from impl_flax.train import loop
from impl_flax.train.clips import crops, divide
from impl_flax.train.recipes import Recipe, Stage
from twinvae.config import DOWN_BLOCK, UP_BLOCK, VAEConfig, preset_config
from twinvae.seeded import seeded_tensors

CONFIG = VAEConfig(
    block_out_channels=(4, 4), down_block_types=(DOWN_BLOCK,) * 2, up_block_types=(UP_BLOCK,) * 2, latent_channels=2,
    layers_per_block=1, norm_num_groups=2,
)  # fmt: skip
STAGE = Stage(steps=4, clips=1, frames=9, height=4, width=4)
RECIPE = Recipe(config=CONFIG, stages=(STAGE,), warmup=0)
CLIPS = {"noise": np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)}
FIRST = seeded_tensors(CONFIG, 0)


@pytest.fixture(autouse=True)
def _quick_step(monkeypatch):
    """A step that compiles nothing: what is tested is what becomes of states (test_step.py has the real one)."""

    def make_step(recipe, mesh):
        def step(state, video):
            seen = jnp.asarray(video, jnp.float32).mean() / 255
            weights = {name: 0.9 * weight + seen for name, weight in state.weights.items()}
            return state._replace(step=state.step + 1, weights=weights), {"loss": seen}

        return step

    monkeypatch.setattr(loop, "make_step", make_step)


def run(folder, recipe=RECIPE):
    return loop.train(recipe, CLIPS, folder, first=FIRST, save_every=0)


def test_killed_after_any_step_it_goes_on_bit_for_bit(tmp_path, monkeypatch):
    whole, make_step = run(tmp_path / "whole"), loop.make_step
    for killed_at in (1, 3):
        folder = tmp_path / str(killed_at)

        def dying(recipe, mesh, at=killed_at):
            step = make_step(recipe, mesh)

            def die(state, video):
                if int(state.step) == at:
                    raise KeyboardInterrupt
                return step(state, video)

            return die

        with monkeypatch.context() as patched:
            patched.setattr(loop, "make_step", dying)
            with pytest.raises(KeyboardInterrupt):
                run(folder)
        for ours, expected in zip(jax.tree.leaves(run(folder)), jax.tree.leaves(whole), strict=True):
            assert np.asarray(ours).tobytes() == np.asarray(expected).tobytes()
    lines = [json.loads(line) for line in (tmp_path / "whole" / loop.LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [4]
    assert np.isfinite(lines[0]["loss"])


@pytest.mark.parametrize(("loss", "kept"), [(0.5, ["3"]), (np.nan, [])])
def test_stopped_between_two_checkpoints_it_keeps_what_was_done_if_it_was_good(loss, kept, tmp_path, monkeypatch):
    make_step = loop.make_step

    class Waited(float):
        def __float__(self):  # where a person's Ctrl-C finds it: waiting for the device
            if not stopped:
                stopped.append(True)
                raise KeyboardInterrupt
            return float.__float__(self)

    def stopping(recipe, mesh):
        step = make_step(recipe, mesh)

        def stop(state, video):
            state, numbers = step(state, video)
            return state, numbers | {"loss": Waited(loss)} if int(state.step) == 3 else numbers

        return stop

    stopped: list[bool] = []
    monkeypatch.setattr(loop, "make_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        loop.train(RECIPE, CLIPS, tmp_path, first=FIRST, save_every=1e9)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == kept


def test_nan_stops_it_names_the_step_and_keeps_the_last_good_one(tmp_path, monkeypatch):
    make_step = loop.make_step

    def spoiling(recipe, mesh):
        step = make_step(recipe, mesh)

        def spoil(state, video):
            state, numbers = step(state, video)
            return state, numbers | {"loss": np.nan} if int(state.step) == 3 else numbers

        return spoil

    monkeypatch.setattr(loop, "make_step", spoiling)
    with pytest.raises(FloatingPointError, match="step 3"):
        run(tmp_path)
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["1", "2"]


def test_a_full_disk_is_said_and_the_last_checkpoint_stays_good(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    save = ocp.CheckpointManager.save

    def full(self, step, *given, **more):
        if step == 2:
            raise OSError(28, "No space left on device")
        return save(self, step, *given, **more)

    with monkeypatch.context() as patched:
        patched.setattr(ocp.CheckpointManager, "save", full)
        with pytest.raises(OSError, match=r"step 2 could not be written.*step 1 is good"):
            run(tmp_path / "full")
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), run(tmp_path / "full"), whole))


def test_a_folder_of_another_recipe_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(ValueError, match="another recipe: found seed 0, expected 1"):
        run(tmp_path, RECIPE.model_copy(update={"seed": 1}))


@pytest.mark.parametrize(
    ("clips", "said"),
    [({}, "no clip"), ({"brief": CLIPS["noise"][:4]}, "clip brief: 4 frames of 8x8"),
     ({"thin": CLIPS["noise"][:, :2]}, "clip thin: 12 frames of 2x8")],
)  # fmt: skip
def test_clips_that_are_too_short_or_too_small_are_named(tmp_path, clips, said):
    with pytest.raises(ValueError, match=said):
        loop.train(RECIPE, clips, tmp_path, first=FIRST)


def test_the_last_third_and_one_clip_whole_are_held_out():
    frames = np.arange(9, dtype=np.uint8)[:, None, None, None]
    seen, held_out = divide({"a": frames, "b": frames}, "b")
    assert {name: one.ravel().tolist() for name, one in seen.items()} == {"a": [0, 1, 2, 3, 4, 5]}
    assert {name: one.ravel().tolist() for name, one in held_out.items()} == {"a": [6, 7, 8], "b": list(range(9))}


def test_a_steps_crops_depend_on_its_number_alone():
    one, again = (crops(CLIPS, STAGE, 0, 5) for _ in range(2))
    assert (one == again).all()
    assert one.shape == (1, 9, 4, 4, 3)
    assert (one != crops(CLIPS, STAGE, 0, 6)).any()


def test_crops_reach_the_first_and_the_last_frames_rows_and_columns():
    stage = Stage(steps=1, clips=1, frames=9, height=8, width=8)
    places = np.stack(np.meshgrid(*map(np.arange, (11, 10, 10)), indexing="ij"), axis=-1).astype(np.uint8)
    taken = np.stack([crops({"a": places}, stage, 0, step)[0] for step in range(60)])
    assert [(int(taken[..., axis].min()), int(taken[..., axis].max())) for axis in range(3)] == [
        (0, 10),
        (0, 9),
        (0, 9),
    ]


def test_clips_that_would_not_come_back_as_long_are_refused_by_the_recipe():
    with pytest.raises(ValueError, match=r"clips of 5 frames come back as 8: .*; take 1 or 8"):
        Recipe(config=preset_config("tiny"), stages=(Stage(steps=1, frames=5),))
