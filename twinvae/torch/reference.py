"""The ground truth: diffusers' AutoencoderKLCogVideoX on PyTorch CPU, unmodified, behind the same interface."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from jaxtyping import Float

from twinvae import arrays
from twinvae.capabilities import EAGER
from twinvae.config import VAEConfig
from twinvae.frames import frame_batches
from twinvae.interface import Cache, Latents, Operation, Video, VideoVAE
from twinvae.registry import Layer, layer_class
from twinvae.tensors import check_tensors
from twinvae.tiles import HEIGHT
from twinvae.torch.layers import LAYERS

CAPABILITIES = EAGER
# The modules whose outputs `activations` gives: blocks, not the layers inside them.
BLOCK = re.compile(
    r"(en|de)coder\.(conv_in|norm_out|conv_out|(mid_block|(down|up)_blocks\.\d+)\.(resnets|(down|up)samplers)\.\d+)"
    r"|(post_)?quant_conv"
)

TorchClip = Float[torch.Tensor, "b c t h w"]


def load(config: VAEConfig, tensors: dict[str, np.ndarray], *, dtype: str, jit: bool, checkpoint: str) -> TorchVideoVAE:
    """Load the reference; it runs op by op whatever `jit` says.

    Raises:
        ValueError: tensors that do not fit the config.
    """
    model = _with_tensors(lambda: AutoencoderKLCogVideoX(**config.model_dump()), tensors, dtype)
    return TorchVideoVAE(config, dtype, checkpoint, model)


def load_layer(
    class_name: str, init: dict[str, Any], tensors: dict[str, np.ndarray], *, dtype: str, jit: bool
) -> Layer:
    """Load one layer of diffusers by class name, channel-last, NumPy out.

    Raises:
        ValueError: unknown class, or tensors that do not fit.
    """
    cls = layer_class(class_name, LAYERS)
    module = _with_tensors(lambda: cls(**init), tensors, dtype)
    takes = inspect.signature(module.forward).parameters

    @torch.no_grad()
    def layer(x: Any, temb: Any = None, zq: Any = None, conv_cache: Any = None) -> tuple[np.ndarray, Any]:
        given = {
            "temb": None if temb is None else _tensor(temb, dtype),
            "zq": None if zq is None else _channel_first(zq, dtype),
            "conv_cache": _over_cache(lambda cached: _channel_first(cached, dtype), conv_cache),
        }
        given = {name: value for name, value in given.items() if value is not None}
        if unknown := given.keys() - takes.keys():
            raise ValueError(f"{class_name} takes no {', '.join(sorted(unknown))}: leave it None")
        out = module(_channel_first(x, dtype), **given)
        out, cache = out if isinstance(out, tuple) else (out, None)
        return _channel_last(out), _over_cache(_channel_last, cache)

    return layer


class TorchVideoVAE(VideoVAE):
    """diffusers' own model; frame batches, tiles, blending and slices are diffusers' own loops as well.

    Args:
        model: its weights loaded, in `dtype`.
    """

    backend = "torch"
    capabilities = EAGER

    def __init__(self, config: VAEConfig, dtype: str, checkpoint: str, model: AutoencoderKLCogVideoX):
        super().__init__(config, dtype, checkpoint)
        self.model = model

    def state_dict(self) -> dict[str, np.ndarray]:
        return {name: _read_only(arrays.to_numpy(tensor)) for name, tensor in self.model.state_dict().items()}

    @torch.no_grad()
    def activations(self, operation: Operation, clip: Video) -> dict[str, Video]:
        clip = self.checked(operation, clip)
        parts: dict[str, list[np.ndarray]] = {}

        def noting(name: str) -> Callable[..., None]:
            def note(module: torch.nn.Module, inputs: Any, output: Any) -> None:
                output = output[0] if isinstance(output, tuple) else output
                parts.setdefault(name, []).append(_channel_last(output))

            return note

        noted = [(name, module) for name, module in self.model.named_modules() if BLOCK.fullmatch(name)]
        handles = [module.register_forward_hook(noting(name)) for name, module in noted]
        try:
            self._apply_settings(operation, clip, tiled=False)
            self._through_model(operation, _channel_first(clip, self.dtype))
        finally:
            for handle in handles:
                handle.remove()
        return {name: np.concatenate(outputs, axis=1) for name, outputs in parts.items()}

    def gradients(self, video: Video, cotangent: Video) -> dict[str, np.ndarray]:
        video = self.checked("encode", video)
        x = _channel_first(video, self.dtype).requires_grad_()
        self._apply_settings("encode", video, tiled=False)
        decoded = self._decoded(self._posterior(x).mode())
        parameters = dict(self.model.named_parameters())
        *of_parameters, of_video = torch.autograd.grad(
            decoded,
            [*parameters.values(), x],
            grad_outputs=_channel_first(cotangent, self.dtype),
        )
        named = {name: arrays.to_numpy(gradient) for name, gradient in zip(parameters, of_parameters, strict=True)}
        return named | {"video": _channel_last(of_video)}

    @torch.no_grad()
    def _run(self, operation: Operation, clip: Video) -> Video:
        self._apply_settings(operation, clip, tiled=self.use_tiling)
        self.model.use_slicing = self.use_slicing
        return _channel_last(self._through_model(operation, _channel_first(clip, self.dtype)))

    def _apply_settings(self, operation: Operation, clip: Video, tiled: bool) -> None:
        """Give the model this VAE's settings, checked as they are for every backend, slices off."""
        frame_batches(clip.shape[1], self.frame_batch_size(operation))
        if tiled:
            self.grid(operation, clip.shape)  # refuses what the encoder cannot take
        model = self.model
        model.use_tiling, model.use_slicing = tiled, False
        model.num_sample_frames_batch_size = self.num_sample_frames_batch_size
        model.num_latent_frames_batch_size = self.num_latent_frames_batch_size
        # Not by its enable_tiling, which cannot be told an overlap of 0; what that derives is derived here anew.
        tiles, compression = self.tile_settings, self.config.spatial_compression
        derived = {
            "tile_latent_min_height": int(tiles.tile_sample_min_height / compression),
            "tile_latent_min_width": int(tiles.tile_sample_min_width / compression),
        }
        for name, setting in vars(tiles).items():
            setattr(model, name, derived[name] if setting is None else setting)

    def _through_model(self, operation: Operation, clip: TorchClip) -> TorchClip:
        if operation == "encode":
            return self._posterior(clip).parameters
        return self._decoded(clip)

    # diffusers' signatures give one type for either value of `return_dict`

    def _posterior(self, clip: TorchClip) -> DiagonalGaussianDistribution:
        return cast(AutoencoderKLOutput, self.model.encode(clip)).latent_dist

    def _decoded(self, latents: TorchClip) -> TorchClip:
        return cast(DecoderOutput, self.model.decode(latents)).sample

    @torch.no_grad()
    def run_frame_batch(
        self, operation: Operation, frames: Video, cache: Cache | None, *_: object
    ) -> tuple[Video, Cache]:
        model, x = self.model, _channel_first(frames, self.dtype)
        if operation == "encode":
            x, cache = model.encoder(x, conv_cache=cache)
            x = x if model.quant_conv is None else model.quant_conv(x)
        else:
            x = x if model.post_quant_conv is None else model.post_quant_conv(x)
            x, cache = model.decoder(x, conv_cache=cache)
        return _channel_last(x), cache

    def concatenate(self, parts: list[Video], axis: int) -> Video:
        return np.concatenate(parts, axis)

    def blend(self, tile: Latents, neighbour: Latents, extent: int, axis: int) -> Latents:
        blend = self.model.blend_v if axis == HEIGHT else self.model.blend_h
        return _channel_last(blend(_channel_first(neighbour, self.dtype), _channel_first(tile, self.dtype), extent))


def _with_tensors(build: Callable[[], torch.nn.Module], tensors: Mapping[str, np.ndarray], dtype: str) -> Any:
    """Build a module without memory, then give it the tensors, shared with NumPy where the dtype is the same."""
    with torch.device("meta"):
        module = build()
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    check_tensors(expected, tensors, type(module).__name__, "Pass exactly the tensors of its state_dict")
    shared = {name: _shared(tensor).to(getattr(torch, dtype)) for name, tensor in tensors.items()}
    module.load_state_dict(shared, assign=True)
    return module.eval()


def _shared(array: np.ndarray) -> torch.Tensor:
    """A torch tensor on the array's own memory where torch can use it."""
    array = np.require(array, requirements=["C", "W"])
    if array.dtype == arrays.DTYPES["bfloat16"]:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def _tensor(array: Any, dtype: str) -> torch.Tensor:
    return arrays.to_torch(arrays.to_numpy(array)).to(getattr(torch, dtype))


def _channel_first(clip: Video, dtype: str) -> TorchClip:
    return _tensor(clip, dtype).permute(0, 4, 1, 2, 3).contiguous()


def _channel_last(clip: TorchClip) -> Video:
    return arrays.to_numpy(clip.permute(0, 2, 3, 4, 1).contiguous())


def _over_cache(convert: Callable[[Any], Any], cache: Any) -> Any:
    """Convert every array of a conv cache, which is None, an array, or a dictionary of conv caches."""
    if cache is None:
        return None
    if isinstance(cache, Mapping):
        return {name: _over_cache(convert, part) for name, part in cache.items()}
    return convert(cache)
