"""CogVideoX's video VAE, native in Flax NNX: the backend "flax"."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from impl_flax import autoencoder, blocks, layers
from impl_flax.autoencoder import AutoencoderKLCogVideoX, FlaxVAE
from impl_flax.params import fill
from twinvae import arrays
from twinvae.config import VAEConfig
from twinvae.registry import Layer, layer_class

LAYERS = {
    layer.__name__: layer
    for layer in (
        layers.GroupNorm,
        layers.CogVideoXSafeConv3d,
        layers.CogVideoXCausalConv3d,
        layers.CogVideoXSpatialNorm3D,
        layers.CogVideoXDownsample3D,
        layers.CogVideoXUpsample3D,
        blocks.CogVideoXResnetBlock3D,
        blocks.CogVideoXDownBlock3D,
        blocks.CogVideoXMidBlock3D,
        blocks.CogVideoXUpBlock3D,
        autoencoder.CogVideoXEncoder3D,
        autoencoder.CogVideoXDecoder3D,
    )
}


def load(config: VAEConfig, tensors: dict[str, np.ndarray], *, dtype: str, jit: bool, checkpoint: str) -> FlaxVAE:
    """The VAE with the given tensors (see `twinvae.load`)."""
    with arrays.dtype_scope(arrays.DTYPES[dtype]):
        graph, abstract = nnx.split(nnx.eval_shape(lambda: AutoencoderKLCogVideoX(config)))
        params = fill(abstract, tensors, arrays.DTYPES[dtype])
    return FlaxVAE(config, dtype, checkpoint, graph, params, jit)


def load_layer(
    class_name: str, init: dict[str, Any], tensors: dict[str, np.ndarray], *, dtype: str, jit: bool
) -> Layer:
    """One layer with the given tensors (see `twinvae.load_layer`).

    Raises:
        ValueError: unknown class, or tensors that do not fit.
    """
    cls, kind = layer_class(class_name, LAYERS), arrays.DTYPES[dtype]
    with arrays.dtype_scope(kind):
        graph, abstract = nnx.split(nnx.eval_shape(lambda: cls(**init)))
        params = fill(abstract, tensors, kind)

    def run(params: nnx.State, x: jax.Array, given: dict[str, Any]) -> tuple[jax.Array, Any]:
        out = nnx.merge(graph, params)(x, **given)
        return out if isinstance(out, tuple) else (out, None)

    call = partial(jax.jit(run) if jit else run, params)

    def layer(x: Any, temb: Any = None, zq: Any = None, conv_cache: Any = None) -> tuple[jax.Array, Any]:
        given = {"temb": temb, "zq": zq, "conv_cache": conv_cache}
        with arrays.dtype_scope(kind):
            given = {name: jax.tree.map(partial(jnp.asarray, dtype=kind), value)
                     for name, value in given.items() if value is not None}  # fmt: skip
            return call(jnp.asarray(x, kind), given)

    return layer
