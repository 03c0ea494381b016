"""DiffusersVAE: any backend as a drop-in for a diffusers pipeline's `vae`, torch in and torch out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from jaxtyping import Float

from twinvae import arrays
from twinvae.interface import Video, VideoVAE

TorchClip = Float[torch.Tensor, "b c t h w"]


def _passed_on(name: str) -> property:
    """An attribute of the VAE, read and set through the adapter."""
    return property(
        lambda self: getattr(self.vae, name),
        lambda self, value: setattr(self.vae, name, value),
        doc=f"The VAE's `{name}`.",
    )


class DiffusersVAE:
    """What the CogVideoX pipelines ask of `pipe.vae`. Clips are [batch, channel, time, height, width].

    It is no `torch.nn.Module`: `pipe.to()` and the offloading hooks pass it by, since its weights live where the
    backend keeps them. What comes out lies on the device of what went in, in the VAE's dtype, without gradients.

    Args:
        vae: any backend; its settings (tiling, slicing, frame batches) are shared, not copied.
    """

    num_sample_frames_batch_size = _passed_on("num_sample_frames_batch_size")
    num_latent_frames_batch_size = _passed_on("num_latent_frames_batch_size")
    use_tiling = _passed_on("use_tiling")
    use_slicing = _passed_on("use_slicing")

    def __init__(self, vae: VideoVAE):
        self.vae = vae
        self.config = FrozenDict(vae.config.model_dump())
        self.dtype = getattr(torch, vae.dtype)
        self.device = torch.device("cpu")
        self.enable_tiling, self.disable_tiling = vae.enable_tiling, vae.disable_tiling
        self.enable_slicing, self.disable_slicing = vae.enable_slicing, vae.disable_slicing

    def encode(
        self, x: TorchClip, return_dict: bool = True
    ) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Encode a video into diffusers' posterior, as `.latent_dist`.

        Raises:
            ValueError: wrong rank, channels, dtype or size.
        """
        posterior = self._posterior(x)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: TorchClip, return_dict: bool = True) -> DecoderOutput | tuple[TorchClip]:
        """Decode raw latents (a pipeline has divided by the scaling factor) into a video, as `.sample`.

        Raises:
            ValueError: wrong rank, channels, dtype or size.
        """
        latents = _channel_last(z, "latents", self.vae.config.latent_channels)
        video = _channel_first(self.vae.decode(latents), z.device)
        return DecoderOutput(sample=video) if return_dict else (video,)

    def __call__(
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

    def to(self, *args: Any, **kwargs: Any) -> DiffusersVAE:
        """Stay where the backend is: a device is passed by.

        Raises:
            ValueError: another dtype, which would need other weights.
        """
        wanted = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.dtype)]
        if any(dtype != self.dtype for dtype in wanted):
            raise ValueError(
                f"this VAE is {self.dtype} and cannot turn into {wanted[0]}: load it anew with "
                f'twinvae.load("{self.vae.backend}", dtype=...), one of {", ".join(arrays.DTYPES)}'
            )
        return self

    def eval(self) -> DiffusersVAE:
        return self

    def requires_grad_(self, requires_grad: bool = True) -> DiffusersVAE:
        """Nothing here takes torch gradients.

        Raises:
            ValueError: gradients are asked for.
        """
        if requires_grad:
            raise ValueError("torch cannot train this VAE: use its `gradients`, or diffusers' own class")
        return self

    def parameters(self) -> Iterator[torch.Tensor]:
        """Copies of the weights."""
        return (arrays.to_torch(tensor) for tensor in self.vae.state_dict().values())


def _channel_last(clip: TorchClip, what: str, channels: int) -> torch.Tensor:
    if clip.ndim != 5 or clip.shape[1] != channels:
        raise ValueError(
            f"{what} has shape {tuple(clip.shape)}: expected [batch, channel, time, height, width] "
            f"with {channels} channels"
        )
    return clip.permute(0, 2, 3, 4, 1)


def _channel_first(clip: Video, device: torch.device) -> TorchClip:
    return arrays.to_torch(arrays.to_numpy(clip)).permute(0, 4, 1, 2, 3).contiguous().to(device)
