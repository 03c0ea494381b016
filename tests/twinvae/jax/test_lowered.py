"""What is lowered is what a call runs, and what a program may overwrite is what its promise says; without a network."""

from __future__ import annotations

import re
from copy import deepcopy

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import twinvae
from twinvae.forms import COLUMN_SLABS, ROW_SLABS, WHOLE

SIZES = {"encode": (5, 24, 40, 3), "decode": (5, 3, 5, 4)}  # two frame batches of one clip


@pytest.fixture(scope="module")
def loaded():
    return twinvae.load("flax")


@pytest.fixture
def vae(loaded, monkeypatch):
    """A VAE whose network repeats cells, and hands on what it was given as its conv cache."""
    vae = deepcopy(loaded)
    vae.num_sample_frames_batch_size, vae.num_latent_frames_batch_size = 2, 2

    def step(operation, params, frames, cache, form=WHOLE):
        out = frames.repeat(8, 2).repeat(8, 3) if operation == "decode" else frames[:, :, ::8, ::8]
        return out, [frames, jnp.zeros(frames.shape[2:])] if cache is None else [cache[0] + 1, cache[1] * 2]

    monkeypatch.setattr(vae, "step", step)
    return vae


@pytest.mark.parametrize("operation", SIZES)
@pytest.mark.parametrize("slicing", [True, False], ids=["slices", "together"])
@pytest.mark.parametrize("tiling", [True, False], ids=["tiles", "whole frames"])
def test_what_is_lowered_of_a_call_is_every_program_that_it_runs(operation, slicing, tiling, vae, monkeypatch):
    shape, seen = (3, *SIZES[operation]), set()
    vae.forms, vae.use_slicing = (ROW_SLABS,), slicing
    if tiling:
        vae.enable_tiling(16, 16, 0, 0)  # of two heights and two widths
    made = vae.compiled_step

    class Seen:
        """A step that notes what it is called with, or lowered for."""

        def __init__(self, operation, form, inside, spent, platform=None, group=None, alone=False):
            self.asked = operation, form, inside, spent, platform, group, alone
            self.step = made(*self.asked)

        def __call__(self, params, frames, cache):
            seen.add((*self.asked, frames.shape, cache is None))
            return self.step(params, frames, cache)

        def lower(self, params, frames, cache):
            seen.add((*self.asked, frames.shape, cache is None))

    monkeypatch.setattr(vae, "compiled_step", Seen)
    lowered = vae.lower_call(operation, shape)
    found = seen.copy()
    seen.clear()
    getattr(vae, operation)(np.zeros(shape, np.float32))
    assert found == seen
    assert len(found) == len(lowered) == 2 * (4 if tiling else 1)


@pytest.mark.parametrize(
    ("form", "platform", "spent", "overwritten"),
    [
        *((form, platform, False, False) for form in (WHOLE, COLUMN_SLABS) for platform in ("cpu", "cuda")),
        (WHOLE, "cpu", True, False),
        (WHOLE, "cuda", True, True),
        *((form, platform, True, True) for form in (ROW_SLABS, COLUMN_SLABS) for platform in ("cpu", "tpu", "cuda")),
    ],
)
def test_a_conv_cache_that_is_spent_is_overwritten_in_every_form_in_slabs_and_on_gpus_in_all(
    form, platform, spent, overwritten, vae
):
    frames = jnp.zeros((1, *SIZES["decode"]))
    cache = [frames, jnp.zeros(frames.shape[2:])]
    text = vae.compiled_step("decode", form, False, spent, platform).lower(vae.params, frames, cache).as_text()
    donated = re.findall("tf.aliasing_output|jax.buffer_donor", text)
    assert len(donated) == len(cache) * overwritten


@pytest.mark.parametrize("form", [WHOLE, ROW_SLABS, COLUMN_SLABS])
def test_the_only_frame_batch_of_a_call_in_slabs_keeps_no_conv_cache_and_that_of_a_stream_does(form, vae, monkeypatch):
    """It would be an output of the program, and in its peak."""
    vae.forms, run, caches = (form,), vae.run_frame_batch, []

    def noting(*given, **how):
        out, cache = run(*given, **how)
        caches.append(cache)
        return out, cache

    monkeypatch.setattr(vae, "run_frame_batch", noting)
    latents = np.ones((1, 2, *SIZES["decode"][1:]), np.float32)
    (streamed,) = vae.decode_stream(latents)
    np.testing.assert_array_equal(vae.decode(latents), streamed)
    vae.decode(np.ones((1, 4, *latents.shape[2:]), np.float32))  # whose second frame batch goes on from the first's
    kept = [cache is not None for cache in caches]
    assert kept == [True, form == WHOLE, True, True]
    (lowered,) = vae.lower_call("decode", latents.shape).values()
    assert (len(jax.tree.leaves(lowered.out_info)) == 1) == (form != WHOLE)


def test_a_program_is_kept_by_all_that_it_is_made_from(vae):
    asked = {"operation": "decode", "form": ROW_SLABS, "inside": False, "spent": False}
    others = [{"operation": "encode"}, {"form": COLUMN_SLABS}, {"spent": True}, {"platform": "tpu"}, {"alone": True}]
    made = [vae.compiled_step(**asked | other) for other in ({}, *others)]
    kept, vae.slab_bytes = vae.slab_bytes, vae.slab_bytes // 2
    made.append(vae.compiled_step(**asked))
    vae.slab_bytes = kept
    assert len({id(step) for step in made}) == len(made)
    assert vae.compiled_step(**asked) is made[0]
