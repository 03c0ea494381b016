"""The blocks of the VAE by diffusers' module names, in the order of computation."""

from __future__ import annotations

from twinvae.config import VAEConfig
from twinvae.tiles import Operation


def block_names(config: VAEConfig, operation: Operation) -> list[str]:
    """Every block whose output `VideoVAE.activations` gives: ResNet blocks, samplers, and what is before and after."""
    last = len(config.block_out_channels) - 1
    middle = ["mid_block.resnets.0", "mid_block.resnets.1"]
    if operation == "encode":
        outer = _blocks("down_blocks", config.layers_per_block, "downsamplers", last)
        inside = ["conv_in", *outer, *middle, "norm_out", "conv_out"]
        after = ["quant_conv"] if config.use_quant_conv else []
        return [f"encoder.{name}" for name in inside] + after
    outer = _blocks("up_blocks", config.layers_per_block + 1, "upsamplers", last)
    inside = ["conv_in", *middle, *outer, "norm_out", "conv_out"]
    before = ["post_quant_conv"] if config.use_post_quant_conv else []
    return before + [f"decoder.{name}" for name in inside]


def _blocks(kind: str, resnets: int, samplers: str, last: int) -> list[str]:
    names = []
    for block in range(last + 1):
        names += [f"{kind}.{block}.resnets.{index}" for index in range(resnets)]
        names += [f"{kind}.{block}.{samplers}.0"] if block < last else []
    return names
