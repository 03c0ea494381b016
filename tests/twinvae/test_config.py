"""VAEConfig: diffusers' fields and defaults, config.json there and back, and what is refused."""

from __future__ import annotations

import inspect
import json

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXDownBlock3D
from pydantic import ValidationError

from twinvae import PRESETS, VAEConfig
from twinvae.config import preset_config

BLOCKS = {
    "down_block_types": ("CogVideoXDownBlock3D",) * 2,
    "up_block_types": ("CogVideoXUpBlock3D",) * 2,
    "block_out_channels": (4, 8),
    "norm_num_groups": 2,
}


def test_fields_and_defaults_are_those_of_diffusers():
    parameters = inspect.signature(AutoencoderKLCogVideoX.__init__).parameters
    expected = {name: parameter.default for name, parameter in parameters.items() if name != "self"}
    assert VAEConfig().model_dump() == expected


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_goes_through_diffusers_and_json_unchanged(name):
    written = json.loads(json.dumps(PRESETS[name].to_dict()))
    with torch.device("meta"):
        model = AutoencoderKLCogVideoX.from_config(written)
    assert VAEConfig.from_dict(dict(model.config)) == PRESETS[name]


def test_presets_differ_in_what_the_published_models_differ():
    two, five, newer = (PRESETS[name] for name in ("cogvideox-2b", "cogvideox-5b", "cogvideox1.5-5b"))
    assert (two.scaling_factor, five.scaling_factor, newer.scaling_factor) == (1.15258426, 0.7, 0.7)
    assert [config.invert_scale_latents for config in (two, five, newer)] == [False, False, True]


def test_every_field_that_is_not_a_default_survives_json():
    config = VAEConfig(
        **BLOCKS, in_channels=4, out_channels=6, latent_channels=6, layers_per_block=2, act_fn="gelu", norm_eps=1e-5,
        temporal_compression_ratio=2, sample_height=32, sample_width=16, scaling_factor=0.5, shift_factor=0.1,
        latents_mean=(0.25,) * 6, latents_std=(2.0,) * 6, force_upcast=False, use_quant_conv=True,
        use_post_quant_conv=True, invert_scale_latents=True,
    )  # fmt: skip
    same_as_default = [name for name, value in VAEConfig() if getattr(config, name) == value]
    assert same_as_default == []
    assert VAEConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_whole_temporal_ratio_stays_an_int():
    """Pipelines compute frame counts with it, and torch takes no 3.0 as a size."""
    read = VAEConfig.from_dict({"temporal_compression_ratio": 4})
    assert isinstance(read.temporal_compression_ratio, int)
    assert isinstance(read.to_dict()["temporal_compression_ratio"], int)


@pytest.mark.parametrize("ratio", [1, 2, 3, 4, 4.0, 8, 16])
@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_temporal_levels_are_the_samplers_of_diffusers_that_compress_time(ratio, blocks):
    fields = {
        "down_block_types": ("CogVideoXDownBlock3D",) * blocks,
        "up_block_types": ("CogVideoXUpBlock3D",) * blocks,
        "block_out_channels": (4,) * blocks,
        "norm_num_groups": 2,
    }
    config = VAEConfig(**fields, temporal_compression_ratio=ratio)
    with torch.device("meta"):
        model = AutoencoderKLCogVideoX(**config.model_dump())
    downs = [block for block in model.modules() if isinstance(block, CogVideoXDownBlock3D)]
    compressing = [sampler for block in downs for sampler in block.downsamplers or [] if sampler.compress_time]
    assert config.temporal_levels == len(compressing)
    assert config.spatial_compression == 2 ** (blocks - 1)


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        VAEConfig().layers_per_block = 1


REFUSED = {
    "another class": ({"_class_name": "AutoencoderKLWan"}, r"'AutoencoderKLWan', expected 'AutoencoderKLCogVideoX'"),
    "unknown field": ({"attention": 1}, r"attention: Extra inputs.*found 1"),
    "wrong type": ({"layers_per_block": "many"}, r"layers_per_block:.*found 'many'"),
    "no layers": ({"layers_per_block": 0}, r"layers_per_block:.*found 0"),
    "compression below one": ({"temporal_compression_ratio": 0.5}, r"temporal_compression_ratio.*found 0.5"),
    "block type of another model": (
        BLOCKS | {"down_block_types": ("DownEncoderBlock2D",) * 2},
        r"down_block_types\.0.*found 'DownEncoderBlock2D'",
    ),
    "unknown activation": ({"act_fn": "sine"}, r"act_fn:.*found 'sine'"),
    "blocks of unequal number": ({"block_out_channels": (32, 64)}, r"has 2 entries, down_block_types 4"),
    "channels that groups do not divide": (BLOCKS | {"norm_num_groups": 3}, r"4 is not divisible by.*3"),
    "quant_conv between unequal channels": (
        BLOCKS | {"use_quant_conv": True, "latent_channels": 16},
        r"latent_channels \(16\) equal to out_channels \(3\)",
    ),
    "post_quant_conv between unequal channels": (
        BLOCKS | {"use_post_quant_conv": True, "latent_channels": 16},
        r"latent_channels \(16\) equal to out_channels \(3\)",
    ),
}


@pytest.mark.parametrize(("fields", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_config_that_cannot_be_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        VAEConfig.from_dict(fields)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, r"config.json not found.*subfolder=.vae."),
        ("{", ValueError, r"config.json is not JSON"),
        ("[1]", ValueError, r"holds a list, expected a JSON object"),
    ],
)
def test_a_config_file_that_cannot_be_read_is_named(content, error, message, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(error, match=message):
        VAEConfig.from_file(tmp_path / "config.json")


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown preset 'huge': choose one of tiny, small, cogvideox-2b"):
        preset_config("huge")
