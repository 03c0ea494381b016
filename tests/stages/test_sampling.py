"""Denoising: diffusers' pipeline's latents, the same bits however steps are divided, and what it refuses."""

from __future__ import annotations

import dataclasses
from functools import cache
from itertools import pairwise

import jax
import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline

from impl_torchax.transformer import load_transformer
from stages.sampling import State, begin, sample
from stages.schedule import probe, torch_noise
from tests.impl_torchax import tiny
from tests.stages.test_schedule import scheduler

STEPS, SEED, GUIDANCE = 4, 3, 6.0


@cache
def loaded(kind, dtype):
    return load_transformer(tiny.transformer(kind, dtype), dtype=dtype)


def texts(kind):
    return tiny.inputs(kind, 1)[1], tiny.inputs(kind, 1, seed=9)[1]


def by_pipeline(kind, name, dtype, **settings):
    pipeline = CogVideoXPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=None,
        transformer=tiny.transformer(kind, dtype),
        scheduler=scheduler(name),
    )
    pipeline.set_progress_bar_config(disable=True)
    text, negative = (torch.tensor(each, dtype=getattr(torch, dtype)) for each in texts(kind))
    _, frames, height, width, _ = tiny.shape(kind, 1)
    latents = pipeline(
        prompt_embeds=text, negative_prompt_embeds=negative, height=8 * height, width=8 * width,
        num_frames=4 * frames - 3, num_inference_steps=STEPS, output_type="latent",
        generator=torch.Generator().manual_seed(SEED), **{"guidance_scale": GUIDANCE} | settings,
    ).frames  # fmt: skip
    return np.moveaxis(latents.double().numpy(), 2, -1)


def ours(kind, name, dtype, state=None, last=None, **settings):
    schedule, transformer = probe(scheduler(name), STEPS), loaded(kind, dtype)
    latents, noise = torch_noise(schedule, SEED, tiny.shape(kind, 1), dtype)
    text, negative = texts(kind)
    given = {"guidance": GUIDANCE, "noise": noise} | settings
    return sample(transformer, schedule, state or begin(latents, transformer), text, negative, last=last, **given)


@pytest.mark.parametrize(
    ("kind", "name", "dtype", "settings", "limit"),
    [
        ("2b", "DDIM", "float64", {}, 1e-5),
        ("5b", "DPM", "float64", {"use_dynamic_cfg": True}, 1e-5),
        ("1.5", "DPM", "float32", {}, 5e-5),
        ("2b", "DPM", "float64", {"guidance_scale": 1.0}, 1e-5),
    ],
)
def test_four_steps_are_those_of_the_pipeline(kind, name, dtype, settings, limit):
    renamed = {"use_dynamic_cfg": "dynamic", "guidance_scale": "guidance"}
    found = ours(kind, name, dtype, **{renamed[key]: value for key, value in settings.items()})
    assert (str(found.latents.dtype), found.step) == (dtype, STEPS)
    assert np.abs(np.asarray(found.latents) - by_pipeline(kind, name, dtype, **settings)).max() <= limit


@pytest.mark.parametrize("noise", ["torch", "jax"])
def test_steps_give_the_same_bits_however_they_are_divided_and_when_resumed_from_what_was_kept(noise):
    settings = {} if noise == "torch" else {"noise": jax.random.key(5)}
    whole, divided = ours("1.5", "DPM", "float32", **settings), None
    for last in (1, 2, 4):
        divided = ours("1.5", "DPM", "float32", divided, last, **settings)
        assert divided.step == last
        divided = State(*(np.asarray(kept) for kept in divided[:2]), last)  # as from a file
    for found, want in zip(divided[:2], whole[:2], strict=True):
        assert np.array_equal(np.asarray(found).view(np.int32), np.asarray(want).view(np.int32))


def test_a_key_draws_other_noise_at_each_step_and_for_each_key():
    transformer, latents = loaded("1.5", "float32"), np.zeros(tiny.shape("1.5", 1), np.float32)
    schedule = probe(scheduler("DPM"), STEPS)
    noise_alone = dataclasses.replace(schedule, next=np.array([[0.0, 0.0, 0.0, 1.0]] * STEPS))
    text, _ = texts("1.5")

    def after(key, last):
        return np.asarray(
            sample(transformer, noise_alone, begin(latents, transformer), text, noise=jax.random.key(key), last=last)
            .latents
        )  # fmt: skip

    drawn = [after(5, 1), after(5, 2), after(6, 1)]
    assert all(0.9 < each.std() < 1.1 for each in drawn)
    assert max(abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) for one, other in pairwise(drawn)) < 0.2


@pytest.mark.parametrize(("guidance", "beside", "clips"), [(6.0, True, 2), (1.0, True, 1), (6.0, False, 1)])
def test_only_what_guidance_changes_is_predicted(guidance, beside, clips, monkeypatch):
    transformer, seen = loaded("2b", "float32"), []

    def program(function, **static):
        def run(params, latents, estimate, *given):
            def predict(params, seen_latents, *_):
                seen.append(len(seen_latents))
                return seen_latents

            return function(predict, params, latents, estimate, *given, **static)

        return run

    monkeypatch.setattr(transformer, "program", program)
    text, negative = texts("2b")
    state = begin(np.zeros(tiny.shape("2b", 1)), transformer)
    schedule = probe(scheduler("DDIM"), STEPS)
    sample(transformer, schedule, state, text, negative if beside else None, guidance=guidance, last=1)
    assert set(seen) == {clips}


def test_an_image_is_seen_beside_the_noisy_latents():
    kind, dtype = "5b from images", "float32"
    schedule, transformer = probe(scheduler("DDIM"), STEPS), loaded(kind, dtype)
    both, text = tiny.inputs(kind, 1)
    noisy, image = both[..., :4], both[..., 4:]
    found = sample(transformer, schedule, begin(noisy, transformer), text, image=image, last=1)
    prediction = np.asarray(transformer(both, text, schedule.timesteps[0]))
    np.testing.assert_allclose(found.latents, schedule.next[0, 0] * noisy + schedule.next[0, 1] * prediction, atol=1e-5)


def test_what_does_not_go_together_is_refused():
    transformer, schedule = loaded("1.5", "float32"), probe(scheduler("DPM"), STEPS)
    text, negative = texts("1.5")
    state = begin(np.zeros(tiny.shape("1.5", 1)), transformer)
    noise = np.zeros((STEPS, *state.latents.shape))
    for settings, words in [
        ({"noise": None}, "noise: none; this schedule draws some"),
        ({"noise": noise[1:]}, r"noise: of \(3, .*an array of \(4, "),
        ({"text": text[..., 1:]}, r"text embeddings of .* for 1 clips: expected \[1, tokens, 32\]"),
        ({"negative": negative[:, 1:]}, "negative embeddings of .*the same number of tokens"),
        ({"image": noise[0]}, "this transformer takes 4 channels in all"),
        ({"state": state._replace(step=2), "last": 1}, "from step 2 to 1 of 4"),
        ({"last": 5}, "from step 0 to 5 of 4"),
    ]:
        given = {"state": state, "text": text, "negative": negative, "noise": noise} | settings
        with pytest.raises(ValueError, match=words):
            sample(transformer, schedule, **given)
