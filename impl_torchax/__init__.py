"""The TorchAx backend: diffusers' own AutoencoderKLCogVideoX, unmodified, run on JAX."""

from impl_torchax.autoencoder import load
from impl_torchax.layers import load_layer

__all__ = ["load", "load_layer"]
