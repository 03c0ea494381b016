"""Operators of transformers that this backend lowers itself, and why: as `lowerings` has those of the VAE.

TorchAx computes bfloat16 in bfloat16: it rounds a product before the bias is added, and a norm's mean and deviation.
Here both are of float32 at least and rounded once, as torch does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import torch
from jaxtyping import Array, Float

from twinvae.jax.attention import attention, exact


def scaled_dot_product_attention(
    query: Float[Array, "b h n d"],
    key: Float[Array, "b h m d"],
    value: Float[Array, "b h m d"],
    attn_mask: Array | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Float[Array, "b h n d"]:
    """`F.scaled_dot_product_attention`, in the form of the platform.

    TorchAx's own asks for tensors on `query.device`, a name that torch cannot resolve where its renaming is held back.
    """
    if dropout_p or is_causal or enable_gqa:
        raise NotImplementedError("attention with dropout, causal or of grouped heads: CogVideoX and T5 have none")
    if attn_mask is None and scale is None:
        return attention(query, key, value)
    return exact(query, key, value, attn_mask, scale)


def linear(x: Float[Array, "*n i"], weight: Float[Array, "o i"], bias: Array | None = None) -> Float[Array, "*n o"]:
    """`F.linear`."""
    out = jax.lax.dot_general(
        x, weight, (((x.ndim - 1,), (1,)), ((), ())), preferred_element_type=jnp.promote_types(x.dtype, jnp.float32)
    )
    return (out if bias is None else out + bias).astype(x.dtype)


def layer_norm(
    x: Float[Array, "*n c"],
    normalized_shape: Sequence[int],
    weight: Float[Array, " c"] | None = None,
    bias: Float[Array, " c"] | None = None,
    eps: float = 1e-5,
) -> Float[Array, "*n c"]:
    """`F.layer_norm` over the last axis."""
    if len(normalized_shape) != 1:
        raise NotImplementedError(f"a layer norm over {len(normalized_shape)} axes: CogVideoX's are over channels")
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = wide - wide.mean(-1, keepdims=True)
    out = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + eps)
    out = out if weight is None else out * weight
    return (out if bias is None else out + bias).astype(x.dtype)


def gelu(x: Float[Array, "*n"], approximate: str = "none") -> Float[Array, "*n"]:
    """`F.gelu`."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jax.nn.gelu(wide, approximate == "tanh").astype(x.dtype)


TOKEN_LOWERINGS: dict[Any, Callable[..., Any]] = {
    torch.nn.functional.scaled_dot_product_attention: scaled_dot_product_attention,
    torch.nn.functional.linear: linear,
    torch.nn.functional.layer_norm: layer_norm,
    torch.nn.functional.gelu: gelu,
}
