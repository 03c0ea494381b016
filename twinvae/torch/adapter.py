"""DiffusersVAE: any backend as a drop-in for a diffusers pipeline's `vae`, torch in and torch out."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import torch
from diffusers import AutoencoderKLCogVideoX, ModelMixin
from diffusers.configuration_utils import FrozenDict
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from jaxtyping import Float

from twinvae import arrays
from twinvae.interface import Video, VideoVAE
from twinvae.tiles import TILE_SETTINGS
from twinvae.torch import reference

TorchClip = Float[torch.Tensor, "b c t h w"]
SETTINGS = (
    "num_sample_frames_batch_size", "num_latent_frames_batch_size", "use_tiling", "use_slicing", *TILE_SETTINGS,
)  # fmt: skip
# What is done by JAX is no part of a graph that torch compiles: torch.compile leaves it as it is.
uncompiled = torch.compiler.disable(reason="a VAE of TwinVAE runs on JAX, which compiles it")


class DiffusersVAE(ModelMixin):
    """What the CogVideoX pipelines ask of `pipe.vae`. Clips are [batch, channel, time, height, width].

    A `torch.nn.Module` without parameters of its own: the weights live where the backend keeps them, and what copies
    or moves them (`parameters`, `state_dict`, `to`) says so. What comes out lies on the device of what went in, in
    the VAE's dtype, without gradients. In a pipeline's `save_pretrained` it is diffusers' class, which reads it back.

    Args:
        vae: any backend; its settings (tiling, slicing, frame batches) are shared, not copied.
    """

    def __init__(self, vae: VideoVAE):
        super().__init__()
        self.vae = vae
        self.config = FrozenDict(vae.config.model_dump())
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.__module__ = "diffusers"  # a pipeline asks an object for it, to say which library reads it

    @property
    def dtype(self) -> torch.dtype:
        return getattr(torch, self.vae.dtype)

    @property
    def device(self) -> torch.device:
        """Where it was last moved to, for pipelines, which make their inputs there; any other will do as well."""
        return self._device

    def enable_tiling(self, *args: Any, **kwargs: Any) -> None:
        self.vae.enable_tiling(*args, **kwargs)

    def disable_tiling(self) -> None:
        self.vae.disable_tiling()

    def enable_slicing(self) -> None:
        self.vae.enable_slicing()

    def disable_slicing(self) -> None:
        self.vae.disable_slicing()

    @uncompiled
    def encode(
        self, x: TorchClip, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Encode a video into diffusers' posterior, as `.latent_dist`.

        Raises:
            ValueError: wrong rank, channels, dtype or size.
        """
        posterior = self._posterior(x)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @uncompiled
    def decode(self, z: TorchClip, return_dict: bool = True) -> DecoderOutput | tuple[TorchClip]:
        """Decode raw latents (a pipeline has divided by the scaling factor) into a video, as `.sample`.

        Raises:
            ValueError: wrong rank, channels, dtype or size.
        """
        latents = _channel_last(z, "latents", self.vae.config.latent_channels)
        video = _channel_first(self.vae.decode(latents), z.device)
        return DecoderOutput(sample=video) if return_dict else (video,)

    @uncompiled
    def forward(
        self,
        sample: TorchClip,
        sample_posterior: bool = False,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
    ) -> DecoderOutput | tuple[TorchClip]:
        """Encode, then decode the posterior's mode, or a sample drawn with torch's `generator`."""
        posterior = self._posterior(sample)
        latents = posterior.sample(generator=generator) if sample_posterior else posterior.mode()
        return self.decode(latents, return_dict=return_dict)

    def _posterior(self, x: TorchClip) -> DiagonalGaussianDistribution:
        video = _channel_last(x, "video", self.vae.config.in_channels)
        return DiagonalGaussianDistribution(_channel_first(self.vae.encode(video).moments, x.device))

    # What is done with the weights of a module

    def to(self, *args: Any, **kwargs: Any) -> DiffusersVAE:
        """Stay where the backend is, and say of a device that this is it, as torch's own method would.

        Raises:
            ValueError: another dtype, which would need other weights, or what is neither device nor dtype.
        """
        named = ("device", "dtype", "tensor", "other", "non_blocking", "copy", "memory_format")
        if unknown := kwargs.keys() - set(named):
            raise ValueError(f"to() takes no {', '.join(sorted(unknown))}: pass a device, or leave it out")
        for value in (*args, *(kwargs.get(name) for name in named[:4])):
            if isinstance(value, torch.Tensor):
                self.to(value.device, value.dtype)
            elif isinstance(dtype := _dtype(value), torch.dtype):
                self._keep(dtype)
            elif value is not None and not isinstance(value, bool):
                self._device = _device(value)
        if (dtype := kwargs.get("dtype")) is not None and not isinstance(_dtype(dtype), torch.dtype):
            raise ValueError(f"to() found {dtype!r} for a dtype: expected one of torch's, such as {self.dtype}")
        return self

    def _keep(self, dtype: torch.dtype) -> None:
        if dtype != self.dtype:
            raise ValueError(
                f"this VAE is {self.dtype} and cannot turn into {dtype}: load it anew with "
                f'twinvae.load("{self.vae.backend}", dtype=...), one of {", ".join(arrays.DTYPES)}'
            )

    def cuda(self, device: int | torch.device | None = None) -> DiffusersVAE:
        return self.to("cuda" if device is None else device)

    def cpu(self) -> DiffusersVAE:
        return self.to("cpu")

    def type(self, dst_type: torch.dtype | str) -> DiffusersVAE:
        return self.to(dtype=dst_type)

    def half(self) -> DiffusersVAE:
        return self.to(torch.float16)

    def bfloat16(self) -> DiffusersVAE:
        return self.to(torch.bfloat16)

    def float(self) -> DiffusersVAE:
        return self.to(torch.float32)

    def double(self) -> DiffusersVAE:
        return self.to(torch.float64)

    def requires_grad_(self, requires_grad: bool = True) -> DiffusersVAE:
        """Nothing here takes torch gradients.

        Raises:
            ValueError: gradients are asked for.
        """
        if requires_grad:
            raise ValueError("torch cannot train this VAE: use its `gradients`, or diffusers' own class")
        return self

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Copies of the weights."""
        return ((prefix + "." * bool(prefix) + name, tensor) for name, tensor in self._copies().items())

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> dict[str, torch.Tensor]:
        """Copies of the weights."""
        return dict(self.named_parameters(prefix.removesuffix(".")))

    def _copies(self) -> dict[str, torch.Tensor]:
        return {name: arrays.to_torch(tensor) for name, tensor in self.vae.state_dict().items()}

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> NoReturn:
        """Other weights make another VAE.

        Raises:
            ValueError: always; the message says what to do.
        """
        raise ValueError(
            "the weights of this VAE stay as they are: save_pretrained the model that has the others, and load them "
            f'with twinvae.load("{self.vae.backend}", weights=folder)'
        )

    @functools.wraps(AutoencoderKLCogVideoX.save_pretrained)
    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As diffusers' class does, with shards and variants; a pipeline looks at what it can be asked for."""
        vae = self.vae
        theirs = reference.load(
            vae.config, vae.state_dict(), dtype=vae.dtype, jit=False, checkpoint=vae.checkpoint
        ).model
        theirs.save_pretrained(*args, **kwargs)


def _passed_on(name: str) -> property:
    """An attribute of the VAE, read and set through the adapter."""
    return property(
        lambda self: getattr(self.vae, name),
        lambda self, value: setattr(self.vae, name, value),
        doc=f"The VAE's `{name}`.",
    )


for _name in SETTINGS:
    setattr(DiffusersVAE, _name, _passed_on(_name))
# Of which class the saved files are: a pipeline writes this name into its index.
DiffusersVAE.__name__ = AutoencoderKLCogVideoX.__name__


def _dtype(value: Any) -> Any:
    """The dtype that a name means, with or without "torch." before it; anything else as it is."""
    return getattr(torch, value.removeprefix("torch."), value) if isinstance(value, str) else value


def _device(value: Any) -> torch.device:
    try:
        return torch.device(value)
    except (RuntimeError, TypeError):
        raise ValueError(f"to() found {value!r}: expected a device or a dtype of torch's") from None


def _channel_last(clip: TorchClip, what: str, channels: int) -> Video:
    if not isinstance(clip, torch.Tensor):
        raise ValueError(f"{what} is a {type(clip).__name__}: expected a torch tensor, as diffusers' class does")
    array = arrays.to_numpy(clip)
    if array.ndim != 5 or array.shape[1] != channels:
        raise ValueError(
            f"{what} has shape {array.shape}: expected [batch, channel, time, height, width] with {channels} channels"
        )
    return array.transpose(0, 2, 3, 4, 1)


def _channel_first(clip: Video, device: torch.device) -> TorchClip:
    return arrays.to_torch(arrays.to_numpy(clip)).permute(0, 4, 1, 2, 3).contiguous().to(device)
