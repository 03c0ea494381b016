"""JaxVideoVAE: a backend given by its parameters and two pure functions, one frame batch at a time."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from twinvae import arrays, tiling
from twinvae.blocks import block_names
from twinvae.compiling import compiler_options
from twinvae.config import VAEConfig
from twinvae.frames import frame_batches
from twinvae.interface import Cache, Operation, VideoVAE

Params = Any  # a backend's own tree of jax.Array


class JaxVideoVAE(VideoVAE):
    """Compiles a backend's step once per shape, so that compiling does not grow with frames or tiles.

    Args:
        params: the backend's tree of arrays, passed to every step.
        jit: compile each step; False runs op by op.
    """

    def __init__(self, config: VAEConfig, dtype: str, checkpoint: str, params: Params, jit: bool):
        super().__init__(config, dtype, checkpoint)
        self.params = params
        self.jit = jit
        steps = {operation: partial(self.step, operation) for operation in ("encode", "decode")}
        options = compiler_options()
        self._steps = {name: jax.jit(step, compiler_options=options) for name, step in steps.items()} if jit else steps
        self._inner_steps = {name: jax.jit(step) for name, step in steps.items()} if jit else steps
        self._blending = jax.jit(tiling.blend, static_argnames=("extent", "axis")) if jit else tiling.blend

    @abstractmethod
    def step(self, operation: Operation, params: Params, frames: jax.Array, cache: Cache | None) -> Any:
        """Pure: one frame batch through the encoder (giving moments) or decoder.

        Args:
            frames: [b, t, h, w, c], video or latents.
            cache: None for the first frame batch of a clip, else what the step before returned.
        Returns:
            The output, channel-last, and the conv cache.
        """

    @abstractmethod
    def named_activations(self, operation: Operation, params: Params, frames: jax.Array, cache: Cache | None) -> Any:
        """Pure: like `step`, giving `({name: output}, cache)` for every name of `block_names`."""

    @abstractmethod
    def named_tensors(self, params: Params) -> dict[str, jax.Array]:
        """A tree like `params` (the parameters, or their gradients) by diffusers' names, in diffusers' layouts."""

    def state_dict(self) -> dict[str, np.ndarray]:
        with self._scope():
            return {name: np.asarray(tensor) for name, tensor in self.named_tensors(self.params).items()}

    def activations(self, operation: Operation, clip: jax.Array) -> dict[str, jax.Array]:
        clip = self._checked(operation, clip)
        run = partial(self.named_activations, operation)
        run = jax.jit(run) if self.jit else run
        cache, parts = None, []
        with self._scope():
            for batch in frame_batches(clip.shape[1], self._batch_size(operation)):
                part, cache = run(self.params, jnp.asarray(clip[:, batch]), cache)
                parts.append(part)
            names = block_names(self.config, operation)
            return {name: jnp.concatenate([part[name] for part in parts], axis=1) for name in names}

    def gradients(self, video: jax.Array, cotangent: jax.Array) -> dict[str, np.ndarray]:
        video = self._checked("encode", video)

        def reconstruct(params: Params, video: jax.Array) -> jax.Array:
            moments = self._whole("encode", params, video)
            return self._whole("decode", params, moments[..., : self.config.latent_channels])

        with self._scope():
            reconstruct = jax.jit(reconstruct) if self.jit else reconstruct
            _, pull_back = jax.vjp(reconstruct, self.params, jnp.asarray(video))
            of_params, of_video = pull_back(jnp.asarray(arrays.to_numpy(cotangent), video.dtype))
            named = {name: np.asarray(gradient) for name, gradient in self.named_tensors(of_params).items()}
            return named | {"video": np.asarray(of_video)}

    def _scope(self) -> Any:
        return arrays.dtype_scope(arrays.DTYPES[self.dtype])

    def _step(self, operation: Operation, frames: jax.Array, cache: Cache | None) -> Any:
        # Inside of somebody's program, how that is compiled is theirs to say.
        steps = self._inner_steps if isinstance(frames, jax.core.Tracer) else self._steps
        with self._scope():
            return steps[operation](self.params, jnp.asarray(frames), cache)

    def _concatenate(self, parts: list[jax.Array], axis: int) -> jax.Array:
        with self._scope():
            return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis)

    def _blend(self, tile: jax.Array, neighbour: jax.Array, extent: int, axis: int) -> jax.Array:
        with self._scope():
            return self._blending(tile, neighbour, extent=extent, axis=axis)

    def _whole(self, operation: Operation, params: Params, clip: jax.Array) -> jax.Array:
        """Pure: the whole clip as one program; the frame batches after the first two run in a `lax.scan`."""
        batches = frame_batches(clip.shape[1], self._batch_size(operation))
        head, cache = self.step(operation, params, clip[:, batches[0]], None)
        if len(batches) == 1:
            return head
        rest = clip[:, batches[1].start :]
        rest = rest.reshape(rest.shape[0], len(batches) - 1, -1, *rest.shape[2:]).swapaxes(0, 1)

        def body(cache: Cache, frames: jax.Array) -> tuple[Cache, jax.Array]:
            out, cache = self.step(operation, params, frames, cache)
            return cache, out

        _, tail = jax.lax.scan(body, cache, rest)
        tail = tail.swapaxes(0, 1)
        return jnp.concatenate([head, tail.reshape(tail.shape[0], -1, *tail.shape[3:])], axis=1)

    def _lower(self, operation: Operation, shape: tuple[int, ...], sharding: Any) -> jax.stages.Lowered:
        dtype = arrays.DTYPES[self.dtype]
        self._checked(operation, np.broadcast_to(np.zeros((), dtype), shape))

        def abstract(array: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=_replicated(sharding))

        with self._scope():
            params = jax.tree.map(abstract, self.params)
            clip = jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)
            return jax.jit(partial(self._whole, operation)).lower(params, clip)


def _replicated(sharding: Any) -> Any:
    """The sharding of parameters beside a clip that is sharded: a copy on every device of the mesh."""
    if isinstance(sharding, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return sharding
