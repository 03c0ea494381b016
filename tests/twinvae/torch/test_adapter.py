"""DiffusersVAE beside diffusers' own class: the same calls, the same answers."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput

import twinvae
from twinvae.torch.adapter import DiffusersVAE


def adapted(dtype: str = "float32") -> DiffusersVAE:
    return twinvae.load("torch", dtype=dtype).as_diffusers()


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> AutoencoderKLCogVideoX:
    folder = tmp_path_factory.mktemp("vae")
    twinvae.load("torch").save_pretrained(folder)
    return AutoencoderKLCogVideoX.from_pretrained(folder).requires_grad_(False)


VIDEO = torch.linspace(-1, 1, 2 * 3 * 2 * 16 * 24).reshape(2, 3, 2, 16, 24).sin()
LATENTS = torch.linspace(-2, 2, 2 * 4 * 2 * 2 * 3).reshape(2, 4, 2, 2, 3).cos()


def test_encode_gives_diffusers_own_posterior(model):
    found, expected = adapted().encode(VIDEO), model.encode(VIDEO)
    assert isinstance(found, AutoencoderKLOutput)
    assert isinstance(found.latent_dist, DiagonalGaussianDistribution)
    torch.testing.assert_close(found.latent_dist.parameters, expected.latent_dist.parameters, rtol=0, atol=1e-6)
    samples = [out.latent_dist.sample(torch.Generator().manual_seed(1)) for out in (found, expected)]
    torch.testing.assert_close(*samples, rtol=0, atol=1e-6)


def test_decode_gives_diffusers_own_output(model):
    found = adapted().decode(LATENTS)
    assert isinstance(found, DecoderOutput)
    assert found.sample.is_contiguous()
    torch.testing.assert_close(found.sample, model.decode(LATENTS).sample, rtol=0, atol=1e-6)


@pytest.mark.parametrize("sample_posterior", [False, True])
def test_a_call_encodes_and_decodes_as_diffusers_does(sample_posterior, model):
    outputs = [
        vae(VIDEO, sample_posterior=sample_posterior, return_dict=False, generator=torch.Generator().manual_seed(2))
        for vae in (adapted(), model)
    ]
    assert all(isinstance(output, tuple) and len(output) == 1 for output in outputs)
    torch.testing.assert_close(outputs[0][0], outputs[1][0], rtol=0, atol=1e-5)
    assert isinstance(adapted()(VIDEO), DecoderOutput)


def test_plain_tuples_come_without_return_dict():
    vae = adapted()
    (posterior,) = vae.encode(VIDEO, return_dict=False)
    (video,) = vae.decode(posterior.mode(), return_dict=False)
    assert video.shape == (2, 3, 1, 16, 24)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("given", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_output_has_the_vaes_dtype_whatever_comes_in(given, dtype):
    vae = adapted(dtype)
    latents = vae.encode(VIDEO[:1, :, :1].to(given)).latent_dist.mode()
    assert vae.decode(latents.to(given)).sample.dtype == latents.dtype == vae.dtype == getattr(torch, dtype)


def test_the_config_reads_as_diffusers_config_does(model):
    config = adapted().config
    expected = {name: value for name, value in model.config.items() if not name.startswith("_")}
    assert {name: list(v) if isinstance(v, tuple) else v for name, v in config.items()} == {
        name: list(v) if isinstance(v, tuple) else v for name, v in expected.items()
    }
    assert config.scaling_factor == config["scaling_factor"] == model.config.scaling_factor
    assert isinstance(config.temporal_compression_ratio, int)


def test_settings_are_those_of_the_vae(model):
    vae = adapted()
    vae.enable_tiling(16, 16, 0.25, 0.25), vae.enable_slicing()
    vae.num_latent_frames_batch_size, vae.num_sample_frames_batch_size = 1, 4
    assert (vae.vae.num_latent_frames_batch_size, vae.vae.num_sample_frames_batch_size) == (1, 4)
    assert (vae.use_tiling, vae.use_slicing) == (True, True)
    model.enable_tiling(16, 16, 0.25, 0.25), model.enable_slicing()
    model.num_latent_frames_batch_size = 1
    torch.testing.assert_close(vae.decode(LATENTS).sample, model.decode(LATENTS).sample, rtol=0, atol=1e-6)
    model.disable_tiling(), model.disable_slicing()
    model.num_latent_frames_batch_size = 2
    vae.disable_tiling(), vae.disable_slicing()
    assert (vae.vae.use_tiling, vae.vae.use_slicing) == (False, False)


def test_calls_that_pipelines_make_on_modules_are_taken(model):
    vae = adapted()
    assert vae.to("cuda").to(torch.float32).to(device="cpu", dtype=torch.float32).eval().requires_grad_(False) is vae
    assert vae.device == torch.device("cpu")
    assert [tuple(p.shape) for p in vae.parameters()] == [tuple(p.shape) for p in model.parameters()]
    assert next(iter(vae.parameters())).dtype == vae.dtype


REFUSED = {
    "another dtype": (lambda vae: vae.to("cpu", torch.bfloat16), r"is torch.float32 and cannot turn into .*bfloat16"),
    "torch gradients": (lambda vae: vae.requires_grad_(), r"cannot train"),
    "rank": (lambda vae: vae.encode(VIDEO[0]), r"video has shape \(3, 2, 16, 24\): expected \[batch, channel, time"),
    "channels": (lambda vae: vae.decode(VIDEO), r"latents has shape \(2, 3, 2, 16, 24\).*with 4 channels"),
    "integers": (lambda vae: vae.encode(VIDEO.int()), r"video is int32: expected floats"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_it_cannot_do_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(adapted())
