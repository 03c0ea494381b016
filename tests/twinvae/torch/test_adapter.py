"""DiffusersVAE beside diffusers' own class: the same calls, the same answers."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXPipeline
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput

import twinvae
from twinvae.torch.adapter import SETTINGS, DiffusersVAE


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


TILES = {
    "tile_sample_min_height": 16, "tile_sample_min_width": 24, "tile_overlap_factor_height": 0.25,
    "tile_overlap_factor_width": 0.5, "tile_latent_min_height": 2, "tile_latent_min_width": 2,
}  # fmt: skip


def test_settings_are_read_as_those_of_diffusers_class():
    vae = adapted()
    with torch.device("meta"):
        model = AutoencoderKLCogVideoX(**vae.vae.config.model_dump())
    assert {name: getattr(vae, name) for name in SETTINGS} == {name: getattr(model, name) for name in SETTINGS}
    vae.enable_tiling(32, 24, 0.5, 0.25)
    assert {name: getattr(vae, name) for name in TILES} == {name: getattr(vae.vae, name) for name in TILES}
    assert (vae.tile_latent_min_height, vae.vae.tile_latent_min_width) == (4, 3)


@pytest.mark.parametrize("of_adapter", [True, False], ids=["adapter", "vae"])
def test_tile_settings_that_are_assigned_are_obeyed_as_diffusers_class_obeys_them(of_adapter, model):
    vae = adapted()
    kept = {name: getattr(model, name) for name in (*TILES, "use_tiling")}
    for owner in (vae if of_adapter else vae.vae, model):
        owner.use_tiling = True
        for name, value in TILES.items():
            setattr(owner, name, value)
    latents = LATENTS[:1, :, :1]
    found, expected = vae.decode(latents).sample, model.decode(latents).sample
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for name, value in kept.items():
        setattr(model, name, value)


def test_a_backend_tiles_as_the_reference_with_settings_that_are_assigned():
    backends = [twinvae.load(name) for name in ("flax", "torch")]
    for vae in backends:
        vae.use_tiling = True
        for name, value in TILES.items():
            setattr(vae, name, value)
    one, other = (vae.layout("decode", np.zeros((1, 1, 2, 3, 4), np.float32))[1] for vae in backends)
    assert one == other is not None


@pytest.mark.parametrize("name", TILES)
def test_a_tile_setting_alone_changes_what_it_changes_in_diffusers_class(name, model):
    vae = adapted()
    kept = getattr(model, name)
    for owner in (vae, model):
        owner.enable_tiling(16, 16, 0.25, 0.25)
        setattr(owner, name, 24 if "sample" in name else 3 if "latent" in name else 0.5)
    torch.testing.assert_close(vae.decode(LATENTS).sample, model.decode(LATENTS).sample, rtol=0, atol=1e-6)
    setattr(model, name, kept)
    model.disable_tiling()


@pytest.mark.parametrize(("name", "value"), [("tile_sample_min_height", 16.5), ("tile_latent_min_width", "2"),
                                             ("tile_overlap_factor_width", None)])  # fmt: skip
def test_a_tile_setting_that_is_none_is_named(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value!r}: it must be a"):
        setattr(adapted(), name, value)


def test_calls_that_pipelines_make_on_modules_are_taken(model):
    vae = adapted()
    assert vae.to("cuda").to(torch.float32).to(device="cpu", dtype=torch.float32).eval().requires_grad_(False) is vae
    assert vae.device == torch.device("cpu")
    assert [tuple(p.shape) for p in vae.parameters()] == [tuple(p.shape) for p in model.parameters()]
    assert next(iter(vae.parameters())).dtype == vae.dtype


def test_what_is_asked_of_a_module_is_answered_as_by_diffusers_class(model):
    vae = adapted()
    assert vae.cpu().float().train().eval().type(torch.float32).cuda().to(torch.zeros(1)).to("float32") is vae
    assert vae.cuda().device.type == vae.to(device="cuda").device.type == "cuda"
    assert vae.to("cpu").to(None).device == torch.device("cpu")
    assert isinstance(vae, torch.nn.Module)
    assert vae.num_parameters() == model.num_parameters()
    for found in (vae.state_dict(), dict(vae.named_parameters())):
        assert list(found) == list(model.state_dict())
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
    assert next(iter(vae.state_dict(prefix="vae."))) == "vae." + next(iter(model.state_dict()))


@pytest.mark.parametrize("how", [{}, {"variant": "fp16", "max_shard_size": "60KB"}], ids=["plain", "shards"])
def test_it_saves_as_diffusers_class_does(how, model, tmp_path):
    adapted().save_pretrained(tmp_path / "ours", **how)
    model.save_pretrained(tmp_path / "theirs", **how)
    found, expected = ({file.name: file.read_bytes() for file in folder.iterdir()}
                       for folder in (tmp_path / "ours", tmp_path / "theirs"))  # fmt: skip
    assert found.keys() == expected.keys()
    assert all(found[name] == expected[name] for name in found if name.endswith(".safetensors"))
    read = AutoencoderKLCogVideoX.from_pretrained(tmp_path / "ours", variant=how.get("variant"))
    assert {name: value for name, value in read.config.items() if name[0] != "_"} == {
        name: value for name, value in model.config.items() if name[0] != "_"
    }


def test_a_pipeline_saves_it_as_diffusers_class_and_reads_it_back(tmp_path):
    unpatched = ("tokenizer", "text_encoder", "transformer")
    pipe = CogVideoXPipeline(**dict.fromkeys(unpatched), vae=adapted(), scheduler=CogVideoXDDIMScheduler())
    pipe.vae = vae = adapted().requires_grad_(False)
    assert pipe.to("cpu").vae is vae
    pipe.save_pretrained(tmp_path, variant="fp16", max_shard_size="60KB")
    saved = {file.name.partition("-")[0] for file in (tmp_path / "vae").iterdir()}
    assert saved == {
        "config.json",
        "diffusion_pytorch_model.fp16",
        "diffusion_pytorch_model.safetensors.index.fp16.json",
    }
    assert json.loads((tmp_path / "model_index.json").read_text())["vae"] == ["diffusers", "AutoencoderKLCogVideoX"]
    again = CogVideoXPipeline.from_pretrained(tmp_path, variant="fp16", **dict.fromkeys(unpatched))
    torch.testing.assert_close(again.vae.decode(LATENTS).sample, vae.decode(LATENTS).sample, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "clip"), [("encode", VIDEO), ("decode", LATENTS), ("forward", VIDEO)])
def test_torch_compile_leaves_it_to_its_backend(name, clip, monkeypatch):
    vae = adapted()
    expected = getattr(vae, name)(clip)

    def compiled_by_nobody(run):
        def called(*arguments):
            assert not torch.compiler.is_compiling()
            return run(*arguments)

        return called

    for part in ("encode", "decode"):
        monkeypatch.setattr(vae.vae, part, compiled_by_nobody(getattr(vae.vae, part)))
    for compiled in (torch.compile(getattr(vae, name), backend="eager"),
                     torch.compile(lambda clip: getattr(vae, name)(clip), backend="eager")):  # fmt: skip
        found = compiled(clip)
        assert type(found) is type(expected)
        found, wanted = (out.latent_dist.parameters if name == "encode" else out.sample for out in (found, expected))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_it_pickles_with_its_settings():
    vae = adapted()
    vae.enable_tiling(16, 16, 0.25, 0.25)
    again = pickle.loads(pickle.dumps(vae))
    assert (again.use_tiling, again.tile_sample_min_height, again.device) == (True, 16, vae.device)
    torch.testing.assert_close(again.decode(LATENTS).sample, vae.decode(LATENTS).sample, rtol=0, atol=0)


REFUSED = {
    "another dtype": (lambda vae: vae.to("cpu", torch.bfloat16), r"is torch.float32 and cannot turn into .*bfloat16"),
    "half": (lambda vae: vae.half(), r"cannot turn into torch.float16"),
    "bfloat16": (lambda vae: vae.bfloat16(), r"cannot turn into torch.bfloat16"),
    "double": (lambda vae: vae.double(), r"cannot turn into torch.float64"),
    "type": (lambda vae: vae.type("torch.float16"), r"cannot turn into torch.float16"),
    "a dtype by name": (lambda vae: vae.to(dtype="float16"), r"cannot turn into torch.float16"),
    "a dtype by name alone": (lambda vae: vae.to("bfloat16"), r"cannot turn into torch.bfloat16"),
    "a tensor's dtype": (lambda vae: vae.to(torch.zeros(1, dtype=torch.float64)), r"cannot turn into torch.float64"),
    "no dtype": (lambda vae: vae.to(dtype="float99"), r"to\(\) found 'float99': expected a device or a dtype"),
    "a device for a dtype": (lambda vae: vae.to(dtype="cpu"), r"to\(\) found 'cpu' for a dtype"),
    "a dtype of NumPy": (lambda vae: vae.to(dtype=np.float16), r"to\(\) found <class 'numpy.float16'>: expected"),
    "an unknown argument": (lambda vae: vae.to(precision="half"), r"to\(\) takes no precision"),
    "other weights": (lambda vae: vae.load_state_dict({}), r"weights of this VAE stay .*load them"),
    "an array of NumPy": (lambda vae: vae.encode(VIDEO.numpy()), r"video is a ndarray: expected a torch tensor"),
    "a tensor without values": (lambda vae: vae.encode(VIDEO.to("meta")), r"has no values that NumPy can hold"),
    "torch gradients": (lambda vae: vae.requires_grad_(), r"cannot train"),
    "rank": (lambda vae: vae.encode(VIDEO[0]), r"video has shape \(3, 2, 16, 24\): expected \[batch, channel, time"),
    "channels": (lambda vae: vae.decode(VIDEO), r"latents has shape \(2, 3, 2, 16, 24\).*with 4 channels"),
    "integers": (lambda vae: vae.encode(VIDEO.int()), r"video is int32: expected floats"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_it_cannot_do_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(adapted())
