"""The blocks of CogVideoX's VAE in Flax NNX, each under diffusers' class name. Arrays are [b, t, h, w, c]."""

# Which norm and which shortcut a block has decides what they are called with, which types do not say.
# pyright: reportCallIssue=false, reportAssignmentType=false

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from impl_flax.layers import (
    Cache,
    CogVideoXCausalConv3d,
    CogVideoXDownsample3D,
    CogVideoXSafeConv3d,
    CogVideoXSpatialNorm3D,
    CogVideoXUpsample3D,
    Frames,
    GroupNorm,
    Linear,
    activate,
)
from twinvae.jax.compiling import on_gpu
from twinvae.jax.shards import in_rows
from twinvae.jax.slabs import Slabs, Source

TimeEmbedding = Float[Array, "b e"]
_AGAIN: ContextVar[bool] = ContextVar("computed again", default=False)


@contextmanager
def computed_again() -> Iterator[None]:
    """For the programs traced inside: what happens in a ResNet block is computed again on the way back, not kept."""
    before = _AGAIN.set(True)
    try:
        yield
    finally:
        _AGAIN.reset(before)


class CogVideoXResnetBlock3D(nnx.Module):
    """Norm, activation, causal conv, twice, beside a shortcut; the decoder's kind takes its norms' scale from `zq`.

    `dropout` is diffusers' argument: of training, and so without effect here, as there in inference.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        dropout: float = 0.0,
        temb_channels: int = 512,
        groups: int = 32,
        eps: float = 1e-6,
        non_linearity: str = "swish",
        conv_shortcut: bool = False,
        spatial_norm_dim: int | None = None,
        pad_mode: str = "first",
    ):
        out_channels = out_channels or in_channels
        self.non_linearity = non_linearity
        if spatial_norm_dim is None:
            self.norm1 = GroupNorm(groups, in_channels, eps)
            self.norm2 = GroupNorm(groups, out_channels, eps)
        else:
            self.norm1 = CogVideoXSpatialNorm3D(in_channels, spatial_norm_dim, groups)
            self.norm2 = CogVideoXSpatialNorm3D(out_channels, spatial_norm_dim, groups)
        self.conv1 = CogVideoXCausalConv3d(in_channels, out_channels, 3, pad_mode=pad_mode)
        self.conv2 = CogVideoXCausalConv3d(out_channels, out_channels, 3, pad_mode=pad_mode)
        if temb_channels > 0:
            self.temb_proj = Linear(temb_channels, out_channels)
        self.shortcut = "identity" if in_channels == out_channels else "causal" if conv_shortcut else "pointwise"
        if self.shortcut == "causal":
            self.conv_shortcut = CogVideoXCausalConv3d(in_channels, out_channels, 3, pad_mode=pad_mode)
        elif self.shortcut == "pointwise":
            self.conv_shortcut = CogVideoXSafeConv3d(in_channels, out_channels, 1)

    def __call__(
        self,
        x: Frames,
        temb: TimeEmbedding | None = None,
        zq: Frames | None = None,
        conv_cache: Cache | None = None,
    ) -> tuple[Frames, Cache]:
        earlier, cache = conv_cache or {}, {}
        condition = () if zq is None else (zq,)

        h = activate(self.norm1(x, *condition), self.non_linearity)
        h, cache["conv1"] = self.conv1(h, earlier.get("conv1"))
        if temb is not None:
            h = h + self.temb_proj(activate(temb, self.non_linearity))[:, None, None, None]
        h = activate(self.norm2(h, *condition), self.non_linearity)
        h, cache["conv2"] = self.conv2(h, earlier.get("conv2"))

        if self.shortcut == "causal":
            x, cache["conv_shortcut"] = self.conv_shortcut(x, earlier.get("conv_shortcut"))
        elif self.shortcut == "pointwise":
            x = self.conv_shortcut(x)
        return h + x, cache

    def in_slabs(self, x: Frames, zq: Frames | None, conv_cache: Cache | None, slabs: Slabs) -> tuple[Frames, Cache]:
        """The same in slabs, for blocks as the VAE has them: no time embedding, no causal shortcut."""
        earlier, cache = conv_cache or {}, {}
        condition = () if zq is None else (zq,)

        def activated(norm: GroupNorm | CogVideoXSpatialNorm3D, x: Frames) -> Source:
            return norm.in_slabs(x, *condition, axis=slabs.axis).then(activate, self.non_linearity)

        h, cache["conv1"] = self.conv1.in_slabs(activated(self.norm1, x), earlier.get("conv1"), slabs)
        first = on_gpu() and in_rows() and conv_cache is None
        if first and self.shortcut == "pointwise" and x.shape[-1] > h.shape[-1]:
            # In the place of `x`, and not beside it, in first rounds, which need most: of each H100 4.46 GB for 4.79,
            # time 2 and rows 4. A v6e's compiler copies `x`, and takes 1.8 GB more, rows 4.
            out, cache["conv2"] = self.conv2.in_slabs(
                activated(self.norm2, h), None, slabs, onto=x, through=self.conv_shortcut
            )
            return out[..., : h.shape[-1]], cache
        beside = self.conv_shortcut.in_slabs(x, slabs) if self.shortcut == "pointwise" else x
        h, cache["conv2"] = self.conv2.in_slabs(activated(self.norm2, h), earlier.get("conv2"), slabs, onto=beside)
        return h, cache


def _chain(
    resnets: nnx.List,
    x: Frames,
    temb: TimeEmbedding | None,
    zq: Frames | None,
    conv_cache: Cache | None,
    slabs: Slabs | None,
) -> tuple[Frames, Cache]:
    earlier, cache = conv_cache or {}, {}
    for index, resnet in enumerate(resnets):
        key = f"resnet_{index}"
        if slabs is None:
            run = _run_again if _AGAIN.get() else type(resnet).__call__
            x, cache[key] = run(resnet, x, temb, zq, earlier.get(key))
        else:
            x, cache[key] = resnet.in_slabs(x, zq, earlier.get(key), slabs)
    return x, cache


def _run_again(
    resnet: CogVideoXResnetBlock3D,
    x: Frames,
    temb: TimeEmbedding | None,
    zq: Frames | None,
    conv_cache: Cache | None,
) -> tuple[Frames, Cache]:
    """The block, of which nothing is kept for the way back but what it was given."""
    graph, params = nnx.split(resnet)

    def run(params: nnx.State, *given: Any) -> tuple[Frames, Cache]:
        return nnx.merge(graph, params)(*given)

    return jax.checkpoint(run, policy=jax.checkpoint_policies.nothing_saveable)(params, x, temb, zq, conv_cache)


class CogVideoXDownBlock3D(nnx.Module):
    """ResNet blocks of the encoder's kind, then one downsampling."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        temb_channels: int,
        dropout: float = 0.0,
        num_layers: int = 1,
        resnet_eps: float = 1e-6,
        resnet_act_fn: str = "swish",
        resnet_groups: int = 32,
        add_downsample: bool = True,
        downsample_padding: int = 0,
        compress_time: bool = False,
        pad_mode: str = "first",
    ):
        self.resnets = nnx.List(
            CogVideoXResnetBlock3D(
                in_channels if index == 0 else out_channels, out_channels, dropout, temb_channels,
                resnet_groups, resnet_eps, resnet_act_fn, pad_mode=pad_mode,
            )
            for index in range(num_layers)
        )  # fmt: skip
        if add_downsample:
            downsampler = CogVideoXDownsample3D(
                out_channels, out_channels, padding=downsample_padding, compress_time=compress_time
            )
        self.downsamplers = nnx.List([downsampler] if add_downsample else [])

    def __call__(
        self,
        x: Frames,
        temb: TimeEmbedding | None = None,
        zq: Frames | None = None,
        conv_cache: Cache | None = None,
        slabs: Slabs | None = None,
    ) -> tuple[Frames, Cache]:
        x, cache = _chain(self.resnets, x, temb, zq, conv_cache, slabs)
        for downsampler in self.downsamplers:
            x = downsampler(x)
        return x, cache


class CogVideoXMidBlock3D(nnx.Module):
    """ResNet blocks at the smallest frame size; conditioned on the latents where `spatial_norm_dim` is given."""

    def __init__(
        self,
        in_channels: int,
        temb_channels: int,
        dropout: float = 0.0,
        num_layers: int = 1,
        resnet_eps: float = 1e-6,
        resnet_act_fn: str = "swish",
        resnet_groups: int = 32,
        spatial_norm_dim: int | None = None,
        pad_mode: str = "first",
    ):
        self.resnets = nnx.List(
            CogVideoXResnetBlock3D(
                in_channels, in_channels, dropout, temb_channels, resnet_groups, resnet_eps, resnet_act_fn,
                spatial_norm_dim=spatial_norm_dim, pad_mode=pad_mode,
            )
            for _ in range(num_layers)
        )  # fmt: skip

    def __call__(
        self,
        x: Frames,
        temb: TimeEmbedding | None = None,
        zq: Frames | None = None,
        conv_cache: Cache | None = None,
        slabs: Slabs | None = None,
    ) -> tuple[Frames, Cache]:
        return _chain(self.resnets, x, temb, zq, conv_cache, slabs)


class CogVideoXUpBlock3D(nnx.Module):
    """ResNet blocks of the decoder's kind, then one upsampling."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        temb_channels: int,
        dropout: float = 0.0,
        num_layers: int = 1,
        resnet_eps: float = 1e-6,
        resnet_act_fn: str = "swish",
        resnet_groups: int = 32,
        spatial_norm_dim: int | None = 16,
        add_upsample: bool = True,
        upsample_padding: int = 1,
        compress_time: bool = False,
        pad_mode: str = "first",
    ):
        self.resnets = nnx.List(
            CogVideoXResnetBlock3D(
                in_channels if index == 0 else out_channels, out_channels, dropout, temb_channels,
                resnet_groups, resnet_eps, resnet_act_fn, spatial_norm_dim=spatial_norm_dim, pad_mode=pad_mode,
            )
            for index in range(num_layers)
        )  # fmt: skip
        if add_upsample:
            upsampler = CogVideoXUpsample3D(
                out_channels, out_channels, padding=upsample_padding, compress_time=compress_time
            )
        self.upsamplers = nnx.List([upsampler] if add_upsample else [])

    def __call__(
        self,
        x: Frames,
        temb: TimeEmbedding | None = None,
        zq: Frames | None = None,
        conv_cache: Cache | None = None,
        slabs: Slabs | None = None,
    ) -> tuple[Frames, Cache]:
        x, cache = _chain(self.resnets, x, temb, zq, conv_cache, slabs)
        for upsampler in self.upsamplers:
            x = upsampler(x, slabs)
        return x, cache
