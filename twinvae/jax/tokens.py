"""A transformer's tokens and heads on several devices, in a mesh of ('dp', 'sp', 'tp'), and its weights cut among all.

Clips, and with guidance what is led away from, go over dp. Outside of attention a device has a part of the video's
tokens, over sp and tp, and all of the text's, whose few tokens seldom divide. In attention it has a part of the heads,
over tp: tokens are exchanged for heads and back, all to all. Over sp it keeps its queries and is sent all keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from twinvae.jax.attention import attention, prepared
from twinvae.jax.mesh import mesh_of

DP, SP, TP = AXES = ("dp", "sp", "tp")
VIDEO = (SP, TP)  # the axes that a video's tokens are dealt out over
Tokens = Float[Array, "b h n d"]


def make_token_mesh(dp: int = 1, sp: int = 1, tp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh for `load_transformer(..., mesh=mesh)` and `load_text_encoder(..., mesh=mesh)`.

    Args:
        dp: over how many devices clips are dealt out; 2 are full with guidance.
        sp: over how many a video's tokens are, of which each is sent all keys.
        tp: over how many heads are; those of a model that do not divide are filled up.
        devices: as many as their product; None: the first ones that JAX has, of all hosts.
    Raises:
        ValueError: a count below 1, or other devices than that many.
    """
    return mesh_of(dict(zip(AXES, (dp, sp, tp), strict=True)), devices)


class Dealt(NamedTuple):
    """What the program of one device knows of the others.

    Args:
        sp, tp: devices along these axes.
        text: tokens of the text, which every device has.
        video: tokens of the video, of all devices, without what fills them up.
    """

    sp: int
    tp: int
    text: int
    video: int

    @property
    def filled(self) -> int:
        """Tokens of the video with what fills them up."""
        parts = self.sp * self.tp
        return -(-self.video // parts) * parts

    def attention(self, q: Tokens, k: Tokens, v: Tokens) -> Tokens:
        """Attention over the tokens of all devices: of every head in what a device has, and so comes out."""
        heads = q.shape[1]
        each = -(-heads // self.tp)

        def with_own_heads(x: Tokens) -> tuple[Tokens, Tokens]:
            x = jnp.pad(x, ((0, 0), (0, each * self.tp - heads), (0, 0), (0, 0)))
            text, video = x[:, :, : self.text], x[:, :, self.text :]
            if self.tp > 1:
                text = lax.dynamic_slice_in_dim(text, lax.axis_index(TP) * each, each, axis=1)
                video = lax.all_to_all(video, TP, split_axis=1, concat_axis=2, tiled=True)
            return text, video

        def all_keys(text: Tokens, video: Tokens) -> Tokens:
            if self.sp > 1:
                video = lax.all_gather(video, SP, axis=2, tiled=True)
            return jnp.concatenate([text, video], axis=2)

        q, k, folded = prepared(q, k, v)  # before they are sent
        queries, k, v = jnp.concatenate(with_own_heads(q), axis=2), *(all_keys(*with_own_heads(x)) for x in (k, v))
        out = attention(queries, k, v, keys=self.text + self.video, folded=folded)
        text, video = out[:, :, : self.text], out[:, :, self.text :]
        if self.tp > 1:
            text = lax.all_gather(text, TP, axis=1, tiled=True)
            video = lax.all_to_all(video, TP, split_axis=2, concat_axis=1, tiled=True)
        return jnp.concatenate([text, video], axis=2)[:, :heads]


def weight_spec(mesh: Mesh, shape: tuple[int, ...], stacked: bool = False) -> PartitionSpec:
    """How a weight is cut: its longest axis that divides over all devices; none where there is no such axis.

    Args:
        stacked: whether the first axis is that of layers, which stays whole.
    """
    axes = [axis for axis in range(int(stacked), len(shape)) if shape[axis] and shape[axis] % mesh.size == 0]
    if not axes:
        return PartitionSpec()
    longest = max(axes, key=lambda axis: shape[axis])
    return PartitionSpec(*(AXES if axis == longest else None for axis in range(longest + 1)))


def gathered(weight: Array, spec: PartitionSpec) -> Array:
    """A layer's weight, whole on each device, from its parts; `spec` is that of the stacked ones."""
    axis = next((axis for axis, names in enumerate(spec) if names), None)
    return weight if axis is None else lax.all_gather(weight, AXES, axis=axis - 1, tiled=True)


def on_all(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def checked_token_mesh(mesh: Mesh) -> Mesh:
    """The mesh, if it is one for tokens.

    Raises:
        ValueError: axes of other names.
    """
    if tuple(mesh.axis_names) != AXES:
        raise ValueError(
            f"a mesh with axes {', '.join(map(repr, mesh.axis_names))}: expected {', '.join(map(repr, AXES))} in this "
            "order; make it with twinvae.jax.tokens.make_token_mesh"
        )
    return mesh


def filled_to(x: Array, count: int, axis: int) -> Array:
    """An array with zeros at the end of an axis."""
    pads = [(0, count - x.shape[axis] if each == axis % x.ndim else 0) for each in range(x.ndim)]
    return jnp.pad(x, pads) if x.shape[axis] < count else x
