"""Schedulers as tables: what diffusers' own step gives, how often it draws, and which schedulers are no table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXDPMScheduler, DDIMScheduler

from stages.schedule import guidance_scales, probe, torch_noise

SETTINGS = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True, "snr_shift_scale": 1.0, "timestep_spacing": "trailing", "clip_sample": False,
    "set_alpha_to_one": True,
}  # fmt: skip
CLASSES = {"DDIM": CogVideoXDDIMScheduler, "DPM": CogVideoXDPMScheduler}


def scheduler(name, **settings):
    return CLASSES[name](**SETTINGS | settings)


@pytest.mark.parametrize("settings", [{}, {"timestep_spacing": "leading", "snr_shift_scale": 3.0}], ids=["2b", "other"])
@pytest.mark.parametrize("name", CLASSES)
def test_rows_are_the_schedulers_steps_with_its_last_draw(name, settings):
    ours, own = probe(scheduler(name, **settings), 5), scheduler(name, **settings)
    own.set_timesteps(5)
    np.testing.assert_array_equal(ours.timesteps, own.timesteps)
    sample, before = (torch.randn(6, dtype=torch.float64, generator=torch.manual_seed(seed)) for seed in (1, 2))
    for place, timestep in enumerate(own.timesteps):
        prediction = torch.randn(6, dtype=torch.float64, generator=torch.manual_seed(place))
        generator, again = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
        if name == "DPM":
            old, back = (before, own.timesteps[place - 1]) if place else (None, None)
            want, clean = own.step(prediction, old, timestep, back, sample, generator=generator)
        else:
            want, clean = own.step(prediction, timestep, sample, return_dict=False)
        draws = [torch.randn(6, dtype=torch.float64, generator=again) for _ in range(ours.draws[place])]
        assert torch.equal(generator.get_state(), again.get_state())
        noise = draws[-1] if draws else torch.zeros(6)
        found = torch.from_numpy(ours.next[place]) @ torch.stack([sample, prediction, before, noise]).double()
        torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(
            torch.from_numpy(ours.estimate[place]) @ torch.stack([sample, prediction]), clean, rtol=1e-12, atol=1e-12
        )
        sample, before = want, clean


def test_dpm_draws_twice_on_every_step_but_the_first_and_the_last_and_ddim_never():
    assert probe(scheduler("DPM"), 4).draws.tolist() == [1, 2, 2, 1]
    assert not probe(scheduler("DDIM"), 4).draws.any()


def test_a_video_that_is_denoised_again_begins_where_its_strength_says():
    whole, part = probe(scheduler("DPM"), 10), probe(scheduler("DPM"), 10, strength=0.35)
    np.testing.assert_array_equal(part.timesteps, whole.timesteps[7:])
    np.testing.assert_array_equal(part.next[1:], whole.next[8:])
    assert abs(part.next[0, 2]) < 1e-15 < abs(whole.next[7, 2])  # there is no estimate before
    clean, noise = torch.randn((2, 4), dtype=torch.float64, generator=torch.manual_seed(1))
    own = scheduler("DPM").add_noise(clean, noise, torch.tensor(part.timesteps[:1]))
    torch.testing.assert_close(part.mix[0] * clean + part.mix[1] * noise, own)


def test_guidance_varies_as_diffusers_has_it():
    schedule = probe(scheduler("DDIM"), 3)
    assert guidance_scales(schedule, 6.0).tolist() == [6.0] * 3
    expected = [1 + 6.0 * (1 - np.cos(np.pi * ((3 - t) / 3) ** 5.0)) / 2 for t in (999, 666, 332)]
    assert schedule.timesteps.tolist() == [999, 666, 332]
    np.testing.assert_allclose(guidance_scales(schedule, 6.0, dynamic=True), expected)


def test_noise_is_what_one_torch_generator_gives_in_diffusers_order():
    schedule, shape = probe(scheduler("DPM"), 3), (1, 2, 3, 4, 5)
    latents, noise = torch_noise(schedule, 3, shape, "float32")
    generator = torch.Generator().manual_seed(3)
    drawn = [torch.randn(1, 2, 5, 3, 4, generator=generator).numpy().transpose(0, 1, 3, 4, 2) for _ in range(5)]
    np.testing.assert_array_equal(latents, drawn[0])
    np.testing.assert_array_equal(noise, [drawn[1], drawn[3], drawn[4]])  # the second step's first draw is dropped
    given, without = torch_noise(schedule, 3, shape, "float32", initial=False, last=1)
    assert given is None
    np.testing.assert_array_equal(without, [drawn[0], *np.zeros((2, *shape))])
    assert torch_noise(probe(scheduler("DDIM"), 3), 3, shape, "float32")[1] is None


@pytest.mark.parametrize(
    ("made", "steps", "strength", "words"),
    [
        (lambda: DDIMScheduler(), 4, 1.0, "class DDIMScheduler: expected CogVideoXDDIMScheduler or CogVideoXDPM"),
        (lambda: scheduler("DDIM"), 0, 1.0, "0 steps: expected 1 to 1000"),
        (lambda: scheduler("DDIM"), 1001, 1.0, "1001 steps: expected 1 to 1000"),
        (lambda: scheduler("DDIM"), 4, 0.1, "strength of 0.1 of 4 steps: .*or 0.25 and more"),
        (lambda: scheduler("DDIM"), 4, 1.5, "strength of 1.5"),
    ],
)
def test_what_is_no_table_is_refused(made, steps, strength, words):
    with pytest.raises(ValueError, match=words):
        probe(made(), steps, strength=strength)


def test_a_step_that_is_no_sum_of_its_inputs_is_refused():
    class Clipped(CogVideoXDDIMScheduler):
        def step(self, *args, **kwargs):
            return tuple(found.clamp(-1, 1) for found in super().step(*args, **kwargs))

    with pytest.raises(ValueError, match="step 1 of Clipped is no sum of its inputs"):
        probe(Clipped(**SETTINGS), 4)
