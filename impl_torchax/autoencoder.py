"""TorchAxVAE: diffusers' AutoencoderKLCogVideoX as a JAX backend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXCausalConv3d
from jaxtyping import Array, Float

from impl_torchax.environment import call, environment, on_tensors
from impl_torchax.lowerings import channels_last, channels_second, convolving_in
from impl_torchax.modules import as_torch, fitted, needed_cache, without_weights
from twinvae.blocks import block_names
from twinvae.config import VAEConfig
from twinvae.forms import FORMS, WHOLE, Form
from twinvae.jax.backend import JaxVideoVAE
from twinvae.jax.shards import AXES, SEEN, Shard, in_time
from twinvae.jax.slabs import Slabs
from twinvae.tiles import Operation

Params = dict[str, jax.Array]
Frames = Float[Array, "b t h w c"]
Cache = dict[str, Any]  # diffusers' conv cache, channel-last, without what it never reads


class TorchAxVAE(JaxVideoVAE):
    """diffusers' own encoder and decoder, called functionally: `params` are diffusers' tensors by name.

    Kernels are kept channel-last. The module is on the meta device and holds no weights.
    """

    backend = "torchax"
    shared_axes = AXES
    params: Params

    def __init__(self, config: VAEConfig, tensors: dict[str, np.ndarray], dtype: str, jit: bool, checkpoint: str):
        self.module = without_weights(AutoencoderKLCogVideoX, config.model_dump())
        super().__init__(config, dtype, checkpoint, fitted(self.module, tensors, dtype), jit)
        self.forms = FORMS

    def step(
        self, operation: Operation, params: Params, frames: Frames, cache: Cache | None, form: Form = WHOLE
    ) -> tuple[Frames, Cache]:
        def part(name: str, *args: Any, **kwargs: Any) -> Any:
            prefix = f"{name}."
            own = {key.removeprefix(prefix): tensor for key, tensor in params.items() if key.startswith(prefix)}
            return call(self.module.get_submodule(name), as_torch(own), *args, **kwargs)

        # Between steps the conv cache is channel-last, as frames are inside of a compiled step.
        x, cache = channels_second(frames), jax.tree.map(channels_second, cache)
        with convolving_in(Slabs.of(form, self.slab_bytes)), _seeing_earlier(self.module, in_time()):
            if operation == "encode":
                x, cache = part("encoder", x, conv_cache=cache)
                x = part("quant_conv", x) if self.config.use_quant_conv else x
            else:
                x = part("post_quant_conv", x) if self.config.use_post_quant_conv else x
                x, cache = part("decoder", x, conv_cache=cache)
        return channels_last(x), jax.tree.map(channels_last, needed_cache(cache))

    def named_activations(
        self, operation: Operation, params: Params, frames: Frames, cache: Cache | None
    ) -> tuple[dict[str, Frames], Cache]:
        with _outputs(self.module, block_names(self.config, operation)) as outputs:
            _, cache = self.step(operation, params, frames, cache)
        return {name: channels_last(output) for name, output in outputs.items()}, cache

    def named_tensors(self, params: Params) -> dict[str, jax.Array]:
        named = as_torch(params)
        return {name: named[name] for name in self.module.state_dict()}


def load(config: VAEConfig, tensors: dict[str, np.ndarray], *, dtype: str, jit: bool, checkpoint: str) -> TorchAxVAE:
    """Load the VAE from diffusers' tensors.

    Raises:
        ValueError: unknown dtype, or a tensor that is missing, extra or misshapen.
    """
    return TorchAxVAE(config, tensors, dtype, jit, checkpoint)


@contextmanager
def _seeing_earlier(module: torch.nn.Module, shard: Shard | None) -> Iterator[None]:
    """Give causal convolutions the frames of the device before, where devices share time."""
    convolutions = [part for part in module.modules() if isinstance(part, CogVideoXCausalConv3d)] if shard else []

    def behind(x: jax.Array, cache: jax.Array | None) -> jax.Array:
        frames, before = channels_last(x), None if cache is None else channels_last(cache)
        earlier = shard.earlier(frames[:, -SEEN:], frames.shape[1], before)
        return channels_second(shard.behind(earlier, frames))

    def forward(convolution: CogVideoXCausalConv3d, inputs: Any, conv_cache: Any = None) -> Any:
        return inputs if convolution.time_kernel_size == 1 else on_tensors(behind, inputs, conv_cache)

    for convolution in convolutions:
        convolution.fake_context_parallel_forward = partial(forward, convolution)  # of this module alone
    try:
        yield
    finally:
        for convolution in convolutions:
            del convolution.fake_context_parallel_forward


@contextmanager
def _outputs(module: torch.nn.Module, names: list[str]) -> Iterator[dict[str, jax.Array]]:
    """Fill a dictionary with the outputs of submodules, in the order of computation."""
    outputs: dict[str, jax.Array] = {}

    def keep(name: str) -> Any:
        def hook(_module: torch.nn.Module, _args: Any, output: Any) -> None:
            output = output[0] if isinstance(output, tuple) else output
            outputs[name] = environment().t2j_iso(output)

        return hook

    hooks = [module.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield outputs
    finally:
        for handle in hooks:
            handle.remove()
