"""CogVideoX's VAE in Flax NNX: encoder, decoder, and the backend that runs them."""

from __future__ import annotations

from math import log2
from typing import Any

import jax
from flax import nnx

from impl_flax.blocks import CogVideoXDownBlock3D, CogVideoXMidBlock3D, CogVideoXUpBlock3D
from impl_flax.layers import (
    Cache,
    CogVideoXCausalConv3d,
    CogVideoXSafeConv3d,
    CogVideoXSpatialNorm3D,
    Frames,
    GroupNorm,
    activate,
)
from impl_flax.params import to_torch_layout
from twinvae.blocks import block_names
from twinvae.config import DOWN_BLOCK, UP_BLOCK, VAEConfig
from twinvae.forms import FORMS, WHOLE, Form
from twinvae.jax.backend import JaxVideoVAE, Params
from twinvae.jax.shards import AXES
from twinvae.jax.slabs import Slabs, source_of
from twinvae.tiles import Operation


class CogVideoXEncoder3D(nnx.Module):
    """Video [b, t, h, w, in_channels] to moments [b, t', h/8, w/8, 2 * out_channels], one frame batch at a time."""

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 16,
        down_block_types: tuple[str, ...] = (DOWN_BLOCK,) * 4,
        block_out_channels: tuple[int, ...] = (128, 256, 256, 512),
        layers_per_block: int = 3,
        act_fn: str = "silu",
        norm_eps: float = 1e-6,
        norm_num_groups: int = 32,
        dropout: float = 0.0,
        pad_mode: str = "first",
        temporal_compression_ratio: int | float = 4,
    ):
        shared = {"resnet_eps": norm_eps, "resnet_act_fn": act_fn, "resnet_groups": norm_num_groups}
        levels, last = int(log2(temporal_compression_ratio)), len(down_block_types) - 1
        widths = (block_out_channels[0], *block_out_channels)
        self.conv_in = CogVideoXCausalConv3d(in_channels, widths[0], 3, pad_mode=pad_mode)
        self.down_blocks = nnx.List(
            CogVideoXDownBlock3D(
                widths[index], widths[index + 1], 0, dropout, layers_per_block,
                add_downsample=index < last, compress_time=index < levels, **shared,
            )
            for index in range(last + 1)
        )  # fmt: skip
        self.mid_block = CogVideoXMidBlock3D(widths[-1], 0, dropout, num_layers=2, pad_mode=pad_mode, **shared)
        self.norm_out = GroupNorm(norm_num_groups, widths[-1], eps=1e-6)
        self.conv_out = CogVideoXCausalConv3d(widths[-1], 2 * out_channels, 3, pad_mode=pad_mode)

    def __call__(
        self,
        x: Frames,
        temb: jax.Array | None = None,
        conv_cache: Cache | None = None,
        slabs: Slabs | None = None,
    ) -> tuple[Frames, Cache]:
        earlier, cache = conv_cache or {}, {}
        if slabs is None:
            x, cache["conv_in"] = self.conv_in(x, earlier.get("conv_in"))
        else:
            x, cache["conv_in"] = self.conv_in.in_slabs(source_of(x, slabs.axis), earlier.get("conv_in"), slabs)
        for index, block in enumerate(self.down_blocks):
            key = f"down_block_{index}"
            x, cache[key] = block(x, temb, None, earlier.get(key), slabs)
        x, cache["mid_block"] = self.mid_block(x, temb, None, earlier.get("mid_block"), slabs)
        if slabs is None:
            x, cache["conv_out"] = self.conv_out(activate(self.norm_out(x), "silu"), earlier.get("conv_out"))
        else:
            activated = self.norm_out.in_slabs(x, axis=slabs.axis).then(activate, "silu")
            x, cache["conv_out"] = self.conv_out.in_slabs(activated, earlier.get("conv_out"), slabs)
        return x, cache


class CogVideoXDecoder3D(nnx.Module):
    """Latents [b, t', h, w, in_channels] to video [b, t, 8*h, 8*w, out_channels], one frame batch at a time."""

    def __init__(
        self,
        in_channels: int = 16,
        out_channels: int = 3,
        up_block_types: tuple[str, ...] = (UP_BLOCK,) * 4,
        block_out_channels: tuple[int, ...] = (128, 256, 256, 512),
        layers_per_block: int = 3,
        act_fn: str = "silu",
        norm_eps: float = 1e-6,
        norm_num_groups: int = 32,
        dropout: float = 0.0,
        pad_mode: str = "first",
        temporal_compression_ratio: int | float = 4,
    ):
        shared = {
            "resnet_eps": norm_eps,
            "resnet_act_fn": act_fn,
            "resnet_groups": norm_num_groups,
            "spatial_norm_dim": in_channels,
            "pad_mode": pad_mode,
        }
        levels, last = int(log2(temporal_compression_ratio)), len(up_block_types) - 1
        widths = (block_out_channels[-1], *reversed(block_out_channels))
        self.conv_in = CogVideoXCausalConv3d(in_channels, widths[0], 3, pad_mode=pad_mode)
        self.mid_block = CogVideoXMidBlock3D(widths[0], 0, num_layers=2, **shared)
        self.up_blocks = nnx.List(
            CogVideoXUpBlock3D(
                widths[index], widths[index + 1], 0, dropout, layers_per_block + 1,
                add_upsample=index < last, compress_time=index < levels, **shared,
            )
            for index in range(last + 1)
        )  # fmt: skip
        self.norm_out = CogVideoXSpatialNorm3D(widths[-1], in_channels, norm_num_groups)
        self.conv_out = CogVideoXCausalConv3d(widths[-1], out_channels, 3, pad_mode=pad_mode)

    def __call__(
        self,
        z: Frames,
        temb: jax.Array | None = None,
        conv_cache: Cache | None = None,
        slabs: Slabs | None = None,
    ) -> tuple[Frames, Cache]:
        earlier, cache = conv_cache or {}, {}
        x, cache["conv_in"] = self.conv_in(z, earlier.get("conv_in"))
        x, cache["mid_block"] = self.mid_block(x, temb, z, earlier.get("mid_block"), slabs)
        for index, block in enumerate(self.up_blocks):
            key = f"up_block_{index}"
            x, cache[key] = block(x, temb, z, earlier.get(key), slabs)
        if slabs is None:
            x, cache["conv_out"] = self.conv_out(activate(self.norm_out(x, z), "silu"), earlier.get("conv_out"))
        else:
            activated = self.norm_out.in_slabs(x, z, axis=slabs.axis).then(activate, "silu")
            x, cache["conv_out"] = self.conv_out.in_slabs(activated, earlier.get("conv_out"), slabs)
        return x, cache


class AutoencoderKLCogVideoX(nnx.Module):
    """Both halves, and the optional 1x1x1 convolutions between them and the latents."""

    def __init__(self, config: VAEConfig):
        shared = config.model_dump(
            include={
                "block_out_channels", "layers_per_block", "act_fn", "norm_eps", "norm_num_groups",
                "temporal_compression_ratio",
            }
        )  # fmt: skip
        latents, out = config.latent_channels, config.out_channels
        self.encoder = CogVideoXEncoder3D(config.in_channels, latents, config.down_block_types, **shared)
        self.decoder = CogVideoXDecoder3D(latents, out, config.up_block_types, **shared)
        if config.use_quant_conv:
            self.quant_conv = CogVideoXSafeConv3d(2 * out, 2 * out, 1)
        if config.use_post_quant_conv:
            self.post_quant_conv = CogVideoXSafeConv3d(out, out, 1)
        self.config = config

    def encode(self, video: Frames, conv_cache: Cache | None, slabs: Slabs | None = None) -> tuple[Frames, Cache]:
        moments, cache = self.encoder(video, conv_cache=conv_cache, slabs=slabs)
        return (self.quant_conv(moments) if self.config.use_quant_conv else moments), cache

    def decode(self, latents: Frames, conv_cache: Cache | None, slabs: Slabs | None = None) -> tuple[Frames, Cache]:
        latents = self.post_quant_conv(latents) if self.config.use_post_quant_conv else latents
        return self.decoder(latents, conv_cache=conv_cache, slabs=slabs)


class FlaxVAE(JaxVideoVAE):
    """The native backend.

    Args:
        graph: the structure of `AutoencoderKLCogVideoX`, without arrays.
        params: its parameters, an `nnx.State`.
    """

    backend = "flax"
    shared_axes = AXES

    def __init__(self, config: VAEConfig, dtype: str, checkpoint: str, graph: nnx.GraphDef, params: Params, jit: bool):
        super().__init__(config, dtype, checkpoint, params, jit)
        self.graph = graph
        self.forms = FORMS

    def step(
        self, operation: Operation, params: Params, frames: jax.Array, cache: Cache | None, form: Form = WHOLE
    ) -> tuple[jax.Array, Cache]:
        return getattr(nnx.merge(self.graph, params), operation)(frames, cache, Slabs.of(form, self.slab_bytes))

    def named_activations(
        self, operation: Operation, params: Params, frames: jax.Array, cache: Cache | None
    ) -> tuple[dict[str, jax.Array], Cache]:
        run = getattr(nnx.merge(self.graph, params), operation)
        (_, cache), outputs = nnx.capture(run, nnx.Intermediate, method_outputs=nnx.Intermediate)(frames, cache)
        names = block_names(self.config, operation)
        return {name: _output(outputs, name) for name in names}, cache

    def named_tensors(self, params: Params) -> dict[str, jax.Array]:
        return to_torch_layout(params)


def _output(outputs: Any, name: str) -> jax.Array:
    """What the block `name` returned when it was called; one with a conv cache returns the cache second."""
    for key in name.split("."):
        outputs = outputs[int(key) if key.isdigit() else key]
    (returned,) = outputs["__call__"].get_value()
    return returned[0] if isinstance(returned, tuple) else returned
