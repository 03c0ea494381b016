"""Every layer and block alone, on random tensors: outputs and conv caches, in the first and in a later frame batch.

At the full architecture's width both PyTorch's error and a backend's are against float64.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

import twinvae
from suites.parity.bars import FAR_FROM_ZERO, FULL_WIDTH, LAYER, MEAN_OF_300, NORM_AT_FULL_WIDTH
from twinvae.bench.bars import Bars, check_dtypes, check_shapes, hold, measured, precise
from twinvae.bench.layers import drawn_tensors, input_channels, latent_channels, parts_of, rounded, used_cache
from twinvae.registry import REFERENCE

pytestmark = pytest.mark.needs("layers")


class Case(NamedTuple):
    """A layer by diffusers' class name and arguments, and its input.

    Args:
        x, zq: [time, height, width] of the input, and of the latents that condition it.
        temb: channels of the time embedding.
        centre, spread: mean and standard deviation of the input.
        bars: per dtype, where rounding alone is above the common ones.
        batch: clips; each group of each has its own statistics, whose rounding is in part chance.
    """

    layer: str
    init: dict[str, Any]
    x: tuple[int, int, int]
    zq: tuple[int, int, int] | None = None
    temb: int | None = None
    centre: float = 0.0
    spread: float = 1.0
    bars: Mapping[str, Bars] = {}
    batch: int = 2


CAUSAL, SPATIAL_NORM = "CogVideoXCausalConv3d", "CogVideoXSpatialNorm3D"
DOWNSAMPLE, UPSAMPLE = "CogVideoXDownsample3D", "CogVideoXUpsample3D"
RESNET, MID_BLOCK = "CogVideoXResnetBlock3D", "CogVideoXMidBlock3D"
DOWN_BLOCK, UP_BLOCK = "CogVideoXDownBlock3D", "CogVideoXUpBlock3D"
ENCODER, DECODER = "CogVideoXEncoder3D", "CogVideoXDecoder3D"

# Height, width and channels differ, and none divides another: a transposition or a wrong axis changes shapes or values.
CONV = {"in_channels": 5, "out_channels": 7, "kernel_size": 3}
WIDE = CONV | {"in_channels": 130}  # enough for a backend to choose the form that is made for the full architecture
NORM = {"num_groups": 4, "num_channels": 8, "eps": 1e-6}
SPATIAL = {"f_channels": 8, "zq_channels": 3, "groups": 4}
SAMPLER = {"in_channels": 5, "out_channels": 7}
SAMPLER_TIME = SAMPLER | {"compress_time": True}
ENCODING = {"in_channels": 8, "temb_channels": 0, "groups": 4}
DECODING = ENCODING | {"spatial_norm_dim": 3}
# A large epsilon shows whether it is used, and where diffusers ignores it.
DOWN = {"in_channels": 8, "out_channels": 12, "temb_channels": 0, "resnet_groups": 4, "resnet_eps": 1e-2}
MID = {"in_channels": 8, "temb_channels": 0, "num_layers": 2, "resnet_groups": 4, "resnet_eps": 1e-2}
UP = DOWN | {"spatial_norm_dim": 3}
TWO_BLOCKS = {
    "in_channels": 3,
    "out_channels": 2,
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "norm_eps": 1e-2,
}
ENCODING_TWO_BLOCKS = TWO_BLOCKS | {"down_block_types": (DOWN_BLOCK,) * 2}
DECODING_TWO_BLOCKS = TWO_BLOCKS | {"up_block_types": (UP_BLOCK,) * 2}

# Of every class one, in every mode and dtype.
LAYERS: dict[str, Case] = {
    "causal conv": Case(CAUSAL, CONV, (3, 5, 6)),
    "causal conv, one frame": Case(CAUSAL, CONV, (1, 5, 6)),
    "causal conv, wide, odd": Case(CAUSAL, WIDE, (5, 4, 3)),
    "group norm": Case("GroupNorm", NORM, (3, 5, 6)),
    "group norm, far from zero": Case("GroupNorm", NORM, (3, 5, 6), centre=30, bars={"float32": FAR_FROM_ZERO}),
    "spatial norm, odd": Case(SPATIAL_NORM, SPATIAL, (5, 6, 8), zq=(3, 3, 4)),
    "downsample, time, odd": Case(DOWNSAMPLE, SAMPLER_TIME, (5, 6, 5)),
    "upsample, time, odd": Case(UPSAMPLE, SAMPLER_TIME, (3, 3, 4)),
    "resnet, encoding, time embedding": Case(RESNET, ENCODING | {"temb_channels": 6}, (3, 5, 6), temb=6),
    "resnet, decoding, 1x1x1 shortcut": Case(RESNET, DECODING | {"out_channels": 12}, (4, 6, 8), zq=(2, 3, 4)),
    "down block, time": Case(DOWN_BLOCK, DOWN | {"compress_time": True}, (4, 5, 6)),
    "mid block": Case(MID_BLOCK, MID, (3, 5, 6)),
    "up block, time": Case(UP_BLOCK, UP | {"compress_time": True}, (2, 6, 8), zq=(2, 3, 4)),
}
# Everything else that they can be asked for, in the first of the chosen dtypes and the last of the modes.
VARIANTS: dict[str, Case] = {
    "causal conv, kernel 1": Case(CAUSAL, CONV | {"kernel_size": 1}, (3, 5, 6)),
    "causal conv, kernel 3x1x1": Case(CAUSAL, CONV | {"kernel_size": (3, 1, 1)}, (3, 5, 6)),
    "causal conv, kernel 1x3x3": Case(CAUSAL, CONV | {"kernel_size": (1, 3, 3)}, (3, 5, 6)),
    "causal conv, kernel 4x1x5": Case(CAUSAL, CONV | {"kernel_size": (4, 1, 5)}, (2, 5, 6)),
    "causal conv, stride 2": Case(CAUSAL, CONV | {"stride": 2}, (3, 5, 6)),
    "causal conv, dilation 2": Case(CAUSAL, CONV | {"dilation": 2}, (3, 5, 6)),
    "causal conv, wide, even": Case(CAUSAL, WIDE, (2, 4, 3)),
    "causal conv, wide, 7 frames": Case(CAUSAL, WIDE, (7, 4, 3)),
    "causal conv, wide, 8 frames": Case(CAUSAL, WIDE, (8, 4, 3)),
    "causal conv, wide, stride 2": Case(CAUSAL, WIDE | {"stride": 2}, (5, 4, 3)),
    "causal conv, wide, dilation 2": Case(CAUSAL, WIDE | {"dilation": 2}, (5, 4, 3)),
    "causal conv, replicate": Case(CAUSAL, CONV | {"pad_mode": "replicate"}, (3, 5, 6)),
    "causal conv, replicate, kernel 3x3x5": Case(
        CAUSAL, CONV | {"kernel_size": (3, 3, 5), "pad_mode": "replicate"}, (2, 5, 6)
    ),
    "causal conv, replicate, kernel 3x5x3": Case(
        CAUSAL, CONV | {"kernel_size": (3, 5, 3), "pad_mode": "replicate"}, (2, 5, 6)
    ),
    "causal conv, replicate, one frame": Case(CAUSAL, CONV | {"pad_mode": "replicate"}, (1, 5, 6)),
    "conv 1x1x1": Case("CogVideoXSafeConv3d", CONV | {"kernel_size": 1}, (3, 5, 6)),
    "conv, stride and padding": Case(
        "CogVideoXSafeConv3d", CONV | {"stride": (1, 2, 2), "padding": (1, 2, 0)}, (3, 5, 6)
    ),
    "group norm, epsilon": Case("GroupNorm", NORM | {"eps": 1e-2}, (3, 5, 6)),
    "group norm, faint input": Case("GroupNorm", NORM, (3, 5, 6), spread=1e-3),
    "spatial norm, even": Case(SPATIAL_NORM, SPATIAL, (4, 6, 8), zq=(2, 3, 4)),
    "spatial norm, one frame": Case(SPATIAL_NORM, SPATIAL, (1, 6, 8), zq=(1, 3, 4)),
    "spatial norm, frames alike": Case(SPATIAL_NORM, SPATIAL, (3, 6, 8), zq=(3, 3, 4)),
    "spatial norm, even frames alike": Case(SPATIAL_NORM, SPATIAL, (2, 6, 8), zq=(2, 6, 8)),
    "spatial norm, 4 frames a latent": Case(SPATIAL_NORM, SPATIAL, (8, 4, 8), zq=(2, 1, 2)),
    "spatial norm, 4 frames a latent, odd": Case(SPATIAL_NORM, SPATIAL, (9, 4, 8), zq=(3, 1, 2)),
    "spatial norm, uneven sizes": Case(SPATIAL_NORM, SPATIAL, (5, 5, 7), zq=(3, 2, 3)),
    "spatial norm, 3 and 4 times as large": Case(SPATIAL_NORM, SPATIAL, (4, 9, 16), zq=(4, 3, 4)),
    "downsample": Case(DOWNSAMPLE, SAMPLER, (3, 5, 6)),
    "downsample, padding 1": Case(DOWNSAMPLE, SAMPLER | {"padding": 1}, (3, 5, 6)),
    "downsample, time": Case(DOWNSAMPLE, SAMPLER_TIME, (4, 5, 6)),
    "downsample, time, one frame": Case(DOWNSAMPLE, SAMPLER_TIME, (1, 5, 6)),
    "upsample": Case(UPSAMPLE, SAMPLER, (3, 3, 4)),
    "upsample, padding 0": Case(UPSAMPLE, SAMPLER | {"padding": 0}, (3, 3, 4)),
    "upsample, time": Case(UPSAMPLE, SAMPLER_TIME, (2, 3, 4)),
    "upsample, time, one frame": Case(UPSAMPLE, SAMPLER_TIME, (1, 3, 4)),
    "resnet, encoding": Case(RESNET, ENCODING | {"eps": 1e-2}, (3, 5, 6)),
    "resnet, encoding, one frame": Case(RESNET, ENCODING, (1, 5, 6)),
    "resnet, encoding, 1x1x1 shortcut": Case(RESNET, ENCODING | {"out_channels": 12}, (3, 5, 6)),
    "resnet, encoding, conv shortcut": Case(RESNET, ENCODING | {"out_channels": 12, "conv_shortcut": True}, (3, 5, 6)),
    "resnet, encoding, dropout": Case(RESNET, ENCODING | {"dropout": 0.5}, (3, 5, 6)),
    "resnet, encoding, replicate": Case(RESNET, ENCODING | {"pad_mode": "replicate"}, (3, 5, 6)),
    "resnet, encoding, gelu": Case(RESNET, ENCODING | {"non_linearity": "gelu"}, (1, 5, 6)),
    "resnet, encoding, mish": Case(RESNET, ENCODING | {"non_linearity": "mish"}, (1, 5, 6)),
    "resnet, encoding, relu": Case(RESNET, ENCODING | {"non_linearity": "relu"}, (1, 5, 6)),
    "resnet, decoding": Case(RESNET, DECODING | {"eps": 1e-2}, (4, 6, 8), zq=(2, 3, 4)),
    "resnet, decoding, odd": Case(RESNET, DECODING, (3, 6, 8), zq=(2, 3, 4)),
    "resnet, decoding, one frame": Case(RESNET, DECODING, (1, 6, 8), zq=(1, 3, 4)),
    "down block": Case(DOWN_BLOCK, DOWN | {"num_layers": 2}, (3, 5, 6)),
    "down block, time, odd": Case(DOWN_BLOCK, DOWN | {"compress_time": True}, (3, 5, 6)),
    "down block, time, one frame": Case(DOWN_BLOCK, DOWN | {"compress_time": True}, (1, 5, 6)),
    "down block, padding 1": Case(DOWN_BLOCK, DOWN | {"downsample_padding": 1}, (3, 5, 6)),
    "down block, no downsampling": Case(DOWN_BLOCK, DOWN | {"add_downsample": False}, (3, 5, 6)),
    "mid block, spatial norm": Case(MID_BLOCK, MID | {"spatial_norm_dim": 3}, (3, 6, 8), zq=(3, 6, 8)),
    "up block": Case(UP_BLOCK, UP | {"num_layers": 2}, (3, 6, 8), zq=(2, 3, 4)),
    "up block, time, odd": Case(UP_BLOCK, UP | {"compress_time": True}, (3, 6, 8), zq=(2, 3, 4)),
    "up block, time, one frame": Case(UP_BLOCK, UP | {"compress_time": True}, (1, 6, 8), zq=(1, 3, 4)),
    "up block, padding 0": Case(UP_BLOCK, UP | {"upsample_padding": 0}, (3, 6, 8), zq=(2, 3, 4)),
    "up block, no upsampling": Case(UP_BLOCK, UP | {"add_upsample": False}, (3, 6, 8), zq=(2, 3, 4)),
    "encoder": Case(ENCODER, ENCODING_TWO_BLOCKS, (5, 11, 9)),
    "encoder, replicate": Case(ENCODER, ENCODING_TWO_BLOCKS | {"pad_mode": "replicate"}, (5, 11, 9)),
    "decoder": Case(DECODER, DECODING_TWO_BLOCKS, (3, 3, 4)),
    "decoder, replicate": Case(DECODER, DECODING_TWO_BLOCKS | {"pad_mode": "replicate"}, (2, 3, 4)),
}


def _wide_norm(channels: int, bars: Mapping[str, Bars] = MEAN_OF_300, **changes: Any) -> Case:
    init = NORM | {"num_groups": 32, "num_channels": channels}
    return Case("GroupNorm", init, (3, 5, 6), batch=8, bars=bars, **changes)


def _wide_spatial_norm(channels: int, bars: Mapping[str, Bars] = MEAN_OF_300, **changes: Any) -> Case:
    init = {"f_channels": channels, "zq_channels": 16, "groups": 32}
    return Case(SPATIAL_NORM, init, (3, 4, 6), zq=(3, 2, 3), batch=8, bars=bars, **changes)


def _wide_conv(channels: int, **changes: Any) -> Case:
    init = CONV | {"in_channels": channels, "out_channels": channels}
    return Case(CAUSAL, init, (3, 4, 5), bars=FULL_WIDTH, **changes)


def _wide_sampler(layer: str, channels: int, x: tuple[int, int, int], **changes: Any) -> Case:
    init = SAMPLER_TIME | {"in_channels": channels, "out_channels": channels}
    return Case(layer, init, x, bars=FULL_WIDTH, **changes)


def _wide_resnet(channels: int, bars: Mapping[str, Bars] = FULL_WIDTH, **changes: Any) -> Case:
    init = {"in_channels": channels, "out_channels": 256, "temb_channels": 0, "groups": 32}
    condition = {"spatial_norm_dim": 16} if "zq" in changes else {}
    return Case(RESNET, init | condition, (3, 4, 6), bars=bars, **changes)


# The widths and groups of the full architecture, with 130 times as many terms in a sum as above, so that sums kept in
# the wrong type show; and inputs whose mean is 300 times their spread, so that lost digits do.
FAR, FAINT = {"centre": 300}, {"spread": 1e-3}
FULL: dict[str, Case] = {
    **{f"group norm, {width}, near zero": _wide_norm(width, NORM_AT_FULL_WIDTH, **FAINT) for width in (128, 256, 512)},
    **{f"group norm, {width}, around 300": _wide_norm(width, **FAR) for width in (128, 256, 512)},
    "spatial norm, 128": _wide_spatial_norm(128, NORM_AT_FULL_WIDTH),
    **{f"spatial norm, {width}, around 300": _wide_spatial_norm(width, **FAR) for width in (256, 512)},
    **{f"causal conv, {width}": _wide_conv(width) for width in (128, 256, 512)},
    "causal conv, 256, around 300": _wide_conv(256, **FAR),
    "downsample, 128": _wide_sampler(DOWNSAMPLE, 128, (5, 6, 5)),
    "downsample, 256, around 300": _wide_sampler(DOWNSAMPLE, 256, (5, 6, 5), **FAR),
    "upsample, 512": _wide_sampler(UPSAMPLE, 512, (3, 3, 4)),
    "upsample, 256, around 300": _wide_sampler(UPSAMPLE, 256, (3, 3, 4), **FAR),
    "resnet, encoding, 128 to 256": _wide_resnet(128),
    "resnet, encoding, 256, around 300": _wide_resnet(256, MEAN_OF_300, batch=4, **FAR),
    "resnet, decoding, 512 to 256": _wide_resnet(512, zq=(3, 2, 3)),
}
EARLIER_FRAMES = 4  # in the batch that a later one follows: enough to fill its conv cache with different frames


@pytest.mark.parametrize("case", LAYERS)
def test_a_layer_alone_computes_what_diffusers_computes(case, backend, mode, dtype, record, options, once):
    _compare(case, LAYERS[case], backend, mode, dtype, record, options.seed, once, precise(dtype))


@pytest.mark.only(once=True)
@pytest.mark.parametrize("case", VARIANTS)
def test_a_variant_of_a_layer_computes_what_diffusers_computes(case, backend, mode, dtype, record, options, once):
    _compare(case, VARIANTS[case], backend, mode, dtype, record, options.seed, once, precise(dtype))


@pytest.mark.only(mode=("jit",), dtype=("float32", "bfloat16"))
@pytest.mark.parametrize("case", FULL)
def test_a_layer_at_full_width_errs_no_more_than_it_did_against_float64(
    case, backend, mode, dtype, record, options, once
):
    _compare(f"full width, {case}", FULL[case], backend, mode, dtype, record, options.seed, once, "float64")


def _compare(
    case: str, spec: Case, backend: str, mode: str, dtype: str, record: Any, seed: int, once: Any, exact: str
) -> None:
    """Hold a layer to the reference in the dtype `exact`, and to what PyTorch's own errs by where that is another."""
    rng = np.random.default_rng([zlib.crc32(case.encode()), seed])
    tensors = drawn_tensors(spec.layer, spec.init, dtype, rng)
    first, later, earlier = (_drawn_input(spec, n, dtype, rng) for n in (spec.x[0], spec.x[0], EARLIER_FRAMES))
    both = case in LAYERS or spec.layer == CAUSAL  # a block's variants start a clip as the block itself does

    def outputs(backend: str, dtype: str, mode: str, carried: Any) -> dict[str, np.ndarray]:
        layer = twinvae.load_layer(backend, spec.layer, spec.init, tensors, dtype=dtype, jit=mode == "jit")
        parts = {}
        if carried is None or both:
            parts |= parts_of(layer, first, spec.init)
        if carried is not None:
            parts |= parts_of(layer, later, spec.init, carried)
        return parts

    def of_reference() -> tuple[Any, dict[str, np.ndarray], dict[str, np.ndarray] | None]:
        _, carried = twinvae.load_layer(REFERENCE, spec.layer, spec.init, tensors, dtype=exact)(**earlier)
        carried = rounded(used_cache(carried, spec.init), dtype)
        in_torch = outputs(REFERENCE, dtype, "eager", carried) if dtype != exact else None
        return carried, outputs(REFERENCE, exact, "eager", carried), in_torch

    carried, expected, in_torch = once((case, dtype, seed), of_reference)
    found = outputs(backend, dtype, mode, carried)
    check_shapes(found, expected)
    check_dtypes(found, dtype)
    bars = spec.bars.get(dtype, LAYER[dtype])
    hold(record, bars, measured(bars, found, expected, in_torch), case)


def _drawn_input(spec: Case, frames: int, dtype: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    x = spec.centre + spec.spread * rng.standard_normal((spec.batch, frames, *spec.x[1:], input_channels(spec.init)))
    given = {"x": x}
    if spec.zq:
        given["zq"] = rng.standard_normal((spec.batch, *spec.zq, latent_channels(spec.init)))
    if spec.temb:
        given["temb"] = rng.standard_normal((spec.batch, spec.temb))
    return rounded(given, dtype)
