"""VAEConfig: the fields of a diffusers `config.json` for AutoencoderKLCogVideoX, and the presets."""

from __future__ import annotations

import json
from math import log2
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

CLASS_NAME = "AutoencoderKLCogVideoX"
DOWN_BLOCK = "CogVideoXDownBlock3D"
UP_BLOCK = "CogVideoXUpBlock3D"


class VAEConfig(BaseModel):
    """Every argument of diffusers' `AutoencoderKLCogVideoX.__init__`, with its names and defaults.

    Raises:
        ValueError: a field of the wrong type, or fields that contradict each other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    in_channels: int = Field(default=3, ge=1)
    out_channels: int = Field(default=3, ge=1)
    down_block_types: tuple[Literal["CogVideoXDownBlock3D"], ...] = (DOWN_BLOCK,) * 4
    up_block_types: tuple[Literal["CogVideoXUpBlock3D"], ...] = (UP_BLOCK,) * 4
    block_out_channels: tuple[int, ...] = (128, 256, 256, 512)
    latent_channels: int = Field(default=16, ge=1)
    layers_per_block: int = Field(default=3, ge=1)
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    norm_eps: float = 1e-6
    norm_num_groups: int = Field(default=32, ge=1)
    # Pipelines count frames with it: an int stays an int.
    temporal_compression_ratio: int | float = Field(default=4, ge=1)
    sample_height: int = Field(default=480, ge=1)
    sample_width: int = Field(default=720, ge=1)
    scaling_factor: float = 1.15258426
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = False
    use_post_quant_conv: bool = False
    invert_scale_latents: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> VAEConfig:
        blocks = len(self.block_out_channels)
        if not blocks == len(self.down_block_types) == len(self.up_block_types):
            raise ValueError(
                f"block_out_channels has {blocks} entries, down_block_types {len(self.down_block_types)}, "
                f"up_block_types {len(self.up_block_types)}: give each block one entry in all three"
            )
        for channels in self.block_out_channels:
            if channels % self.norm_num_groups:
                raise ValueError(
                    f"block_out_channels {self.block_out_channels}: {channels} is not divisible by "
                    f"norm_num_groups {self.norm_num_groups}"
                )
        sized_alike = self.latent_channels == self.out_channels
        if (self.use_quant_conv or self.use_post_quant_conv) and not sized_alike:
            raise ValueError(
                "diffusers sizes quant_conv and post_quant_conv by out_channels, so they need latent_channels "
                f"({self.latent_channels}) equal to out_channels ({self.out_channels})"
            )
        return self

    @property
    def spatial_compression(self) -> int:
        """Video pixels per latent cell, along height and along width."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def temporal_levels(self) -> int:
        """How many blocks halve the frames on the way in, and double them on the way out (the last never does)."""
        return min(int(log2(self.temporal_compression_ratio)), len(self.block_out_channels) - 1)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> VAEConfig:
        """Read the content of a `config.json`; diffusers' own bookkeeping (`_class_name`, ...) is checked and dropped.

        Raises:
            ValueError: the config is of another model class, has unknown fields, or contradicts itself.
        """
        class_name = fields.get("_class_name", CLASS_NAME)
        if class_name != CLASS_NAME:
            raise ValueError(
                f"config is of class {class_name!r}, expected {CLASS_NAME!r}: point at the VAE's folder, "
                'for a whole pipeline with subfolder="vae"'
            )
        try:
            return cls(**{name: value for name, value in fields.items() if not name.startswith("_")})
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']} (found {e['input']!r:.80})"
                for e in error.errors()
            )
            raise ValueError(f"not a valid {CLASS_NAME} config: {problems}") from None

    @classmethod
    def from_file(cls, path: Path) -> VAEConfig:
        """Read a `config.json`.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is no JSON object, or `from_dict` rejects it.
        """
        try:
            fields = json.loads(Path(path).read_text())
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{path} not found: a diffusers VAE folder holds config.json beside its safetensors; "
                'for a whole pipeline pass subfolder="vae"'
            ) from None
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise ValueError(f"{path} holds a {type(fields).__name__}, expected a JSON object of config fields")
        return cls.from_dict(fields)

    def to_dict(self) -> dict[str, Any]:
        """The content of a `config.json` that diffusers reads back."""
        return {"_class_name": CLASS_NAME, **self.model_dump(mode="json")}


# The cogvideox presets follow the vae/config.json published with each model; "tiny" has every kind of layer
# (both shortcuts, every temporal level, grouped norms) at about 1/3000 of the cost; "small" is trained
# (twinvae/weights/small), with a scaling factor of its data.
PRESETS: dict[str, VAEConfig] = {
    "tiny": VAEConfig(
        block_out_channels=(8, 16, 16, 24),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_height=64,
        sample_width=96,
    ),
    "small": VAEConfig(
        block_out_channels=(16, 24, 44, 44),
        latent_channels=40,
        layers_per_block=1,
        norm_num_groups=4,
        sample_height=128,
        sample_width=192,
        scaling_factor=0.97407,
    ),
    "cogvideox-2b": VAEConfig(),
    "cogvideox-5b": VAEConfig(scaling_factor=0.7),
    "cogvideox1.5-5b": VAEConfig(scaling_factor=0.7, invert_scale_latents=True),
}


def preset_config(name: str) -> VAEConfig:
    """The config of a preset.

    Raises:
        ValueError: no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"unknown preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
