"""The PyTorch reference: diffusers itself, called directly, must give the same numbers bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

import twinvae
from twinvae import PRESETS, VAEConfig
from twinvae.arrays import to_numpy, to_torch
from twinvae.seeded import seeded_tensors
from twinvae.torch.reference import LAYERS, TorchVideoVAE, load, load_layer

TINY = PRESETS["tiny"]
SMALL = VAEConfig(
    down_block_types=("CogVideoXDownBlock3D",) * 2,
    up_block_types=("CogVideoXUpBlock3D",) * 2,
    block_out_channels=(4, 8),
    norm_num_groups=2,
    latent_channels=3,
    layers_per_block=1,
    temporal_compression_ratio=2,
)
QUANT = SMALL.model_copy(update={"use_quant_conv": True, "use_post_quant_conv": True})
CONFIGS = {"plain": SMALL, "quant convs": QUANT}


def reference(config: VAEConfig = SMALL, dtype: str = "float64") -> TorchVideoVAE:
    return load(config, seeded_tensors(config, 0), dtype=dtype, jit=False, checkpoint="seed 0")


def plain_diffusers(config: VAEConfig, dtype: str) -> AutoencoderKLCogVideoX:
    """The same weights in a model built the usual way."""
    model = AutoencoderKLCogVideoX(**config.model_dump())
    model.load_state_dict({name: to_torch(tensor) for name, tensor in seeded_tensors(config, 0).items()})
    return model.to(getattr(torch, dtype)).eval().requires_grad_(False)


def clip(batch: int, frames: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(frames).uniform(-1, 1, (batch, frames, height, width, channels))


def torch_clip(array: np.ndarray, dtype: str) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 4, 1, 2, 3))).to(getattr(torch, dtype))


def channel_last(tensor: torch.Tensor) -> np.ndarray:
    return to_numpy(tensor.permute(0, 2, 3, 4, 1).contiguous())


# Whole model. Each setting: what is done to our VAE, and to diffusers' model.


def tile(vae: TorchVideoVAE) -> None:
    vae.enable_tiling(8, 8, 0.25, 0.5)


def tile_without_overlap(vae: TorchVideoVAE) -> None:
    vae.enable_tiling(8, 6, 0, 0)


def tile_diffusers_without_overlap(model: AutoencoderKLCogVideoX) -> None:
    model.enable_tiling(8, 6)
    model.tile_overlap_factor_height = model.tile_overlap_factor_width = 0


def batch_frames(vae: Any) -> None:
    vae.num_sample_frames_batch_size, vae.num_latent_frames_batch_size = 4, 1


SETTINGS: dict[str, tuple[Callable[[Any], None], Callable[[Any], None]]] = {
    "as loaded": (lambda vae: None, lambda model: None),
    "tiled": (tile, lambda model: model.enable_tiling(8, 8, 0.25, 0.5)),
    "tiled without overlap": (tile_without_overlap, tile_diffusers_without_overlap),
    "sliced": (lambda vae: vae.enable_slicing(), lambda model: model.enable_slicing()),
    "other frame batches": (batch_frames, batch_frames),
}


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize(("ours", "theirs"), SETTINGS.values(), ids=SETTINGS.keys())
def test_encode_and_decode_are_diffusers_bit_for_bit(ours, theirs, config, dtype):
    vae, model = reference(config, dtype), plain_diffusers(config, dtype)
    ours(vae), theirs(model)
    video, latents = clip(2, 17, 16, 12), clip(2, 5, 8, 6)
    posterior = model.encode(torch_clip(video, dtype)).latent_dist
    moments = vae.encode(video).moments
    np.testing.assert_array_equal(moments, channel_last(posterior.parameters))
    assert isinstance(moments, np.ndarray)
    assert moments.dtype == getattr(ml_dtypes, dtype, dtype)
    np.testing.assert_array_equal(vae.decode(latents), channel_last(model.decode(torch_clip(latents, dtype)).sample))


def test_a_preset_is_diffusers_bit_for_bit():
    vae, model = reference(TINY, "float32"), plain_diffusers(TINY, "float32")
    video = clip(1, 9, 16, 24)
    expected = model.decode(model.encode(torch_clip(video, "float32")).latent_dist.mode()).sample
    np.testing.assert_array_equal(vae(video), channel_last(expected))


def test_a_setting_that_is_taken_back_leaves_no_trace():
    vae, latents = reference(), clip(2, 5, 8, 6)
    untouched = vae.decode(latents)
    tile(vae), vae.enable_slicing(), batch_frames(vae)
    changed = vae.decode(latents)
    assert not np.allclose(changed[:, :5, :8, :6], untouched[:, :5, :8, :6])
    vae.disable_tiling(), vae.disable_slicing()
    vae.num_latent_frames_batch_size = 2
    np.testing.assert_array_equal(vae.decode(latents), untouched)


@pytest.mark.parametrize("tiled", [False, True])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("operation", ["encode", "decode"])
def test_streams_give_the_frames_of_the_whole_clip_across_calls(operation, config, tiled):
    vae = reference(config)
    if tiled:
        tile(vae)
    encode = operation == "encode"
    frames = clip(1, 27, 16, 12) if encode else clip(1, 7, 8, 6)
    whole = vae.encode(frames).moments if encode else vae.decode(frames)
    stream_of = vae.encode_stream if encode else vae.decode_stream
    first = 11 if encode else 3
    head = stream_of(frames[:, :first])
    chunks = list(head)
    tail = stream_of(frames[:, first:], cache=head.cache)
    np.testing.assert_allclose(np.concatenate([*chunks, *tail], axis=1), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("operation", "config", "names"),
    [
        (
            "encode",
            QUANT,
            "encoder.conv_in encoder.down_blocks.0.resnets.0 encoder.down_blocks.0.downsamplers.0 "
            "encoder.down_blocks.1.resnets.0 encoder.mid_block.resnets.0 encoder.mid_block.resnets.1 "
            "encoder.norm_out encoder.conv_out quant_conv",
        ),
        (
            "decode",
            QUANT,
            "post_quant_conv decoder.conv_in decoder.mid_block.resnets.0 decoder.mid_block.resnets.1 "
            "decoder.up_blocks.0.resnets.0 decoder.up_blocks.0.resnets.1 decoder.up_blocks.0.upsamplers.0 "
            "decoder.up_blocks.1.resnets.0 decoder.up_blocks.1.resnets.1 decoder.norm_out decoder.conv_out",
        ),
    ],
)
def test_activations_are_every_block_in_order_and_untiled(operation, config, names):
    vae = reference(config)
    encode = operation == "encode"
    frames = clip(2, 11, 8, 12) if encode else clip(2, 5, 4, 6, 3)
    whole = vae.encode(frames).moments if encode else vae.decode(frames)
    vae.enable_tiling(4, 4), vae.enable_slicing()
    (vae.encode if encode else vae.decode)(frames)  # after which the module itself tiles and slices
    activations = vae.activations(operation, frames)
    assert list(activations) == names.split()
    np.testing.assert_array_equal(list(activations.values())[-1], whole)
    conv_in = activations[f"{operation}r.conv_in"]
    assert conv_in.shape == (*frames.shape[:4], 4 if encode else 8)
    assert not vae.model.encoder.conv_in._forward_hooks
    assert vae.use_tiling


def test_activations_of_one_block_are_that_layer_alone():
    vae, video = reference(TINY), clip(1, 3, 8, 8)
    activations = vae.activations("encode", video)
    weights = {
        name.removeprefix("encoder.conv_in."): tensor
        for name, tensor in vae.state_dict().items()
        if name.startswith("encoder.conv_in.")
    }
    init = {"in_channels": 3, "out_channels": 8, "kernel_size": 3}
    layer = twinvae.load_layer("torch", "CogVideoXCausalConv3d", init, weights, dtype="float64")
    np.testing.assert_array_equal(layer(video)[0], activations["encoder.conv_in"])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_gradients_are_the_slopes_of_the_reconstruction(config):
    """Against central differences in a random direction through all weights and the video at once."""
    generator = np.random.default_rng(0)
    tensors = {name: tensor.astype(np.float64) for name, tensor in seeded_tensors(config, 0).items()}
    video = clip(1, 3, 8, 8)
    cotangent = generator.normal(size=reference(config)(video).shape)
    direction = {name: generator.normal(size=tensor.shape) for name, tensor in (tensors | {"video": video}).items()}

    def objective(step: float) -> float:
        moved = {name: tensor + step * direction[name] for name, tensor in tensors.items()}
        vae = load(config, moved, dtype="float64", jit=False, checkpoint="")
        return float(np.sum(cotangent * vae(video + step * direction["video"])))

    vae = load(config, tensors, dtype="float64", jit=False, checkpoint="")
    vae.enable_tiling(4, 4)
    gradients = vae.gradients(video, cotangent)
    assert list(gradients) == [*tensors, "video"]
    assert all(gradients[name].shape == direction[name].shape for name in gradients)
    slope = sum(np.sum(gradients[name] * direction[name]) for name in gradients)
    step = 1e-6
    assert slope == pytest.approx((objective(step) - objective(-step)) / (2 * step), rel=1e-5)


def test_only_gradients_keep_what_gradients_need():
    vae, video, kept = reference(), clip(1, 3, 8, 8), []
    vae.model.encoder.conv_in.register_forward_hook(lambda *_: kept.append(torch.is_grad_enabled()))
    vae.encode(video), list(vae.encode_stream(video)), vae.activations("encode", video)
    assert kept == [False] * 3


def test_one_latent_cell_is_enough():
    vae, model = reference(), plain_diffusers(SMALL, "float64")
    latents = clip(1, 1, 1, 1)
    decoded = vae.decode(latents)
    assert decoded.shape == (1, 1, 2, 2, 3)
    np.testing.assert_array_equal(decoded, channel_last(model.decode(torch_clip(latents, "float64")).sample))
    assert vae.encode(decoded).moments.shape == (1, 1, 1, 1, 6)


def test_weights_are_shared_with_the_checkpoint_and_cannot_be_written_through():
    tensors = seeded_tensors(TINY, 0)
    state = load(TINY, tensors, dtype="float32", jit=False, checkpoint="").state_dict()
    assert list(state) == list(tensors)
    assert all(np.shares_memory(state[name], tensors[name]) for name in tensors)
    assert not any(tensor.flags.writeable for tensor in state.values())
    tensors["encoder.conv_in.conv.weight"].flags.writeable = False
    assert load(TINY, tensors, dtype="float32", jit=False, checkpoint="").state_dict().keys() == tensors.keys()


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("stored", ["float64", "float32", "float16", "bfloat16"])
def test_weights_of_any_dtype_are_rounded_to_the_models(stored, dtype):
    stored, wanted = (np.dtype(getattr(ml_dtypes, name, name)) for name in (stored, dtype))
    tensors = {name: tensor.astype(stored) for name, tensor in seeded_tensors(QUANT, 0).items()}
    state = load(QUANT, tensors, dtype=dtype, jit=False, checkpoint="").state_dict()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(state[name], tensor.astype(wanted))


def test_a_reconstruction_is_saved_and_loaded_unchanged(tmp_path):
    vae, video = reference(dtype="bfloat16"), clip(1, 2, 8, 8)
    vae.save_pretrained(tmp_path)
    again = twinvae.load("torch", weights=str(tmp_path), dtype="bfloat16")
    assert again.config == SMALL
    np.testing.assert_array_equal(again(video), vae(video))


def test_nan_in_the_video_comes_through():
    video = clip(1, 2, 8, 8)
    video[0, 0, 0, 0, 0] = np.nan
    assert np.isnan(reference(dtype="float32")(video)).any()


def test_samples_follow_mean_and_std_and_the_key():
    posterior = reference().encode(clip(1, 9, 16, 32))
    np.testing.assert_array_equal(posterior.sample(3), posterior.sample(3))
    noise = (posterior.sample(3) - posterior.mean) / posterior.std
    assert abs(noise.mean()) < 0.2
    assert 0.8 < noise.std() < 1.2
    assert isinstance(noise, np.ndarray)


# Layers: init, then the shapes of x, temb and zq, channel-last

RESNET = {"in_channels": 4, "out_channels": 6, "groups": 2}
BLOCK = {"in_channels": 4, "out_channels": 6, "temb_channels": 5, "num_layers": 2, "resnet_groups": 2}
NETWORK = {"block_out_channels": (4, 8), "layers_per_block": 1, "norm_num_groups": 2}
X, TEMB, ZQ = (2, 3, 4, 6, 4), (2, 5), (2, 2, 2, 3, 3)
LAYER_CASES: dict[str, tuple[str, dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "causal conv": ("CogVideoXCausalConv3d", {"in_channels": 4, "out_channels": 6, "kernel_size": 3}, {"x": X}),
    "causal conv, replicate": (
        "CogVideoXCausalConv3d",
        {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "pad_mode": "replicate"},
        {"x": X},
    ),
    "safe conv": ("CogVideoXSafeConv3d", {"in_channels": 4, "out_channels": 6, "kernel_size": 1}, {"x": X}),
    "group norm": ("GroupNorm", {"num_groups": 2, "num_channels": 4}, {"x": X}),
    "spatial norm": (
        "CogVideoXSpatialNorm3D",
        {"f_channels": 4, "zq_channels": 3, "groups": 2},
        {"x": X, "zq": ZQ},
    ),
    "resnet": ("CogVideoXResnetBlock3D", RESNET | {"temb_channels": 5}, {"x": X, "temb": TEMB}),
    "resnet, conditioned": (
        "CogVideoXResnetBlock3D",
        RESNET | {"temb_channels": 0, "spatial_norm_dim": 3, "dropout": 0.5},
        {"x": X, "zq": ZQ},
    ),
    "downsample": ("CogVideoXDownsample3D", {"in_channels": 4, "out_channels": 4, "compress_time": True}, {"x": X}),
    "upsample": ("CogVideoXUpsample3D", {"in_channels": 4, "out_channels": 4, "compress_time": True}, {"x": X}),
    "down block": ("CogVideoXDownBlock3D", BLOCK, {"x": X, "temb": TEMB}),
    "mid block": (
        "CogVideoXMidBlock3D",
        {"in_channels": 4, "temb_channels": 5, "resnet_groups": 2, "spatial_norm_dim": 3},
        {"x": X, "temb": TEMB, "zq": ZQ},
    ),
    "up block": ("CogVideoXUpBlock3D", BLOCK | {"spatial_norm_dim": 3}, {"x": X, "temb": TEMB, "zq": ZQ}),
    "encoder": (
        "CogVideoXEncoder3D",
        NETWORK | {"in_channels": 4, "down_block_types": ("CogVideoXDownBlock3D",) * 2},
        {"x": X},
    ),
    "decoder": (
        "CogVideoXDecoder3D",
        NETWORK | {"in_channels": 4, "up_block_types": ("CogVideoXUpBlock3D",) * 2},
        {"x": X},
    ),
}


def drawn_state(module: torch.nn.Module) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    return {name: generator.normal(size=tensor.shape) for name, tensor in module.state_dict().items()}


def nested(cache: Any, convert: Callable[[Any], Any]) -> Any:
    if isinstance(cache, dict):
        return {name: nested(part, convert) for name, part in cache.items()}
    return None if cache is None else convert(cache)


@pytest.mark.parametrize(("class_name", "init", "shapes"), LAYER_CASES.values(), ids=LAYER_CASES.keys())
def test_a_layer_is_diffusers_own_for_the_first_and_the_next_frames(class_name, init, shapes):
    module = LAYERS[class_name](**init).double().eval()
    state = drawn_state(module)
    module.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in state.items()})
    layer = load_layer(class_name, init, state, dtype="float64", jit=False)
    caches: tuple[Any, Any] = (None, None)
    for part in range(2):
        generator = np.random.default_rng(part)
        inputs = {name: generator.normal(size=shape) for name, shape in shapes.items()}
        theirs = [
            torch.from_numpy(array if array.ndim == 2 else array.transpose(0, 4, 1, 2, 3)).contiguous()
            for array in inputs.values()
        ]
        optional = dict(zip(list(inputs)[1:], theirs[1:], strict=True))
        if caches[1] is not None:
            optional["conv_cache"] = caches[1]
        expected = module(theirs[0], **optional)
        expected, their_cache = expected if isinstance(expected, tuple) else (expected, None)
        found, cache = layer(**inputs, conv_cache=caches[0])
        np.testing.assert_array_equal(found, expected.detach().numpy().transpose(0, 2, 3, 4, 1))
        assert isinstance(found, np.ndarray)
        caches = (cache, their_cache)
        np.testing.assert_equal(cache, nested(their_cache, lambda t: t.detach().numpy().transpose(0, 2, 3, 4, 1)))


def test_every_layer_class_has_a_case():
    assert {class_name for class_name, _, _ in LAYER_CASES.values()} == set(LAYERS)


# What is refused


CONV = ("CogVideoXCausalConv3d", {"in_channels": 4, "out_channels": 6, "kernel_size": 3})


def test_an_unknown_layer_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown layer class 'Conv': choose one of CogVideoXCausalConv3d"):
        load_layer("Conv", {}, {}, dtype="float32", jit=False)


def test_tensors_that_do_not_fit_a_layer_are_named():
    state = drawn_state(LAYERS[CONV[0]](**CONV[1]))
    with pytest.raises(ValueError, match=r"missing conv\.bias"):
        load_layer(*CONV, {"conv.weight": state["conv.weight"]}, dtype="float32", jit=False)
    with pytest.raises(ValueError, match="not in this architecture: extra"):
        load_layer(*CONV, state | {"extra": np.zeros(1)}, dtype="float32", jit=False)


def test_an_input_that_a_layer_does_not_take_is_named():
    layer = load_layer(*CONV, drawn_state(LAYERS[CONV[0]](**CONV[1])), dtype="float32", jit=False)
    with pytest.raises(ValueError, match=r"CogVideoXCausalConv3d takes no temb, zq"):
        layer(np.zeros(X), temb=np.zeros(TEMB), zq=np.zeros(ZQ))


REFUSED = {
    "rank": (lambda vae: vae.encode(np.zeros((9, 8, 8, 3))), r"expected 5 axes"),
    "channels": (lambda vae: vae.decode(np.zeros((1, 1, 1, 1, 4))), r"latents has 4 channels.*expected 3"),
    "integers": (lambda vae: vae.encode(np.zeros((1, 1, 8, 8, 3), np.uint8)), r"video is uint8: expected floats"),
    "no frames": (lambda vae: vae.encode(np.zeros((1, 0, 8, 8, 3))), r"no frames"),
    "too small": (lambda vae: vae.encode(np.zeros((1, 1, 1, 8, 3))), r"1x8.*at least 2"),
    "a sliver of a tile": (
        lambda vae: (vae.enable_tiling(16, 16, 0, 0), vae.encode(np.zeros((1, 1, 33, 16, 3)))),
        r"last tile along height is 1 pixels of 33",
    ),
    "frame batch of zero": (
        lambda vae: (setattr(vae, "num_latent_frames_batch_size", 0), vae.decode(np.zeros((1, 1, 1, 1, 3)))),
        r"frame batch size is 0",
    ),
    "a sample without a key": (lambda vae: vae(np.zeros((1, 1, 8, 8, 3)), sample_posterior=True), r"needs a key"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call(reference(dtype="float32"))
