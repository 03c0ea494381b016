"""diffusers' layers by class name: what `load_layer` may be asked for."""

from __future__ import annotations

import torch
from diffusers.models.autoencoders import autoencoder_kl_cogvideox as blocks
from diffusers.models.downsampling import CogVideoXDownsample3D
from diffusers.models.upsampling import CogVideoXUpsample3D

LAYERS: dict[str, type[torch.nn.Module]] = {
    layer.__name__: layer
    for layer in (
        blocks.CogVideoXSafeConv3d,
        blocks.CogVideoXCausalConv3d,
        blocks.CogVideoXSpatialNorm3D,
        blocks.CogVideoXResnetBlock3D,
        blocks.CogVideoXDownBlock3D,
        blocks.CogVideoXMidBlock3D,
        blocks.CogVideoXUpBlock3D,
        blocks.CogVideoXEncoder3D,
        blocks.CogVideoXDecoder3D,
        CogVideoXDownsample3D,
        CogVideoXUpsample3D,
        torch.nn.GroupNorm,
    )
}
