"""One step of training: a pure function of the state, the clips and the step's number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from impl_flax.autoencoder import AutoencoderKLCogVideoX
from impl_flax.blocks import computed_again
from impl_flax.params import fill, to_torch_layout, torch_name
from impl_flax.train.loss import loss
from impl_flax.train.recipes import Recipe
from twinvae import arrays
from twinvae.frames import ENCODED_TOGETHER, latent_count
from twinvae.jax.compiling import compiler_options
from twinvae.jax.shards import CLIPS
from twinvae.tensors import Tensors

Named = dict[str, jax.Array]  # by diffusers' name, in Flax's layout


class State(NamedTuple):
    """Everything that a step changes.

    Attributes:
        step: how many have been taken.
        weights: the master copy.
        average: their moving average, which is what is kept in the end.
        optimiser: moments.
    """

    step: jax.Array
    weights: Named
    average: Named
    optimiser: Any


class Structure(NamedTuple):
    """The model without its arrays."""

    graph: nnx.GraphDef
    abstract: nnx.State

    @classmethod
    def of(cls, recipe: Recipe) -> Structure:
        return cls(*nnx.split(nnx.eval_shape(lambda: AutoencoderKLCogVideoX(recipe.config))))

    def named(self, tensors: Mapping[str, np.ndarray], dtype: np.dtype) -> Named:
        """Tensors in diffusers' layout, in Flax's."""
        state = fill(self.abstract, dict(tensors), dtype)
        return {torch_name(path): param[...] for path, param in nnx.to_flat_state(state)}

    def state(self, named: Named) -> nnx.State:
        flat = [(path, param.replace(named[torch_name(path)])) for path, param in nnx.to_flat_state(self.abstract)]
        return nnx.from_flat_state(flat)

    def model(self, named: Named) -> AutoencoderKLCogVideoX:
        return nnx.merge(self.graph, self.state(named))


def master_dtype(recipe: Recipe) -> np.dtype:
    """Of weights, moments and averages: float32 at least."""
    return np.dtype(np.float64 if recipe.compute == "float64" else np.float32)


def optimiser(recipe: Recipe) -> optax.GradientTransformation:
    """AdamW on gradients of bounded norm, at a rate that warms up and then follows a cosine."""
    rate = optax.warmup_cosine_decay_schedule(
        0.0 if recipe.warmup else recipe.learning_rate, recipe.learning_rate, recipe.warmup,
        max(recipe.steps, recipe.warmup + 1), recipe.learning_rate * recipe.last_rate,
    )  # fmt: skip
    adamw = optax.adamw(rate, weight_decay=recipe.weight_decay)
    chain = optax.chain(optax.clip_by_global_norm(recipe.clip_norm), adamw)
    if recipe.part == "all":
        return chain

    def labels(named: Named) -> dict[str, str]:
        return {name: "trained" if name.startswith(("decoder.", "post_quant_conv.")) else "kept" for name in named}

    return optax.multi_transform({"trained": chain, "kept": optax.set_to_zero()}, labels)


def begin(recipe: Recipe, tensors: Mapping[str, np.ndarray]) -> State:
    """The state before the first step."""
    return _begun(recipe, Structure.of(recipe).named(tensors, master_dtype(recipe)))


def _begun(recipe: Recipe, weights: Named) -> State:
    return State(jnp.zeros((), jnp.int32), weights, jax.tree.map(jnp.copy, weights), optimiser(recipe).init(weights))


def abstract_state(recipe: Recipe) -> State:
    """The shapes of a state, for programs and for checkpoints."""
    params, dtype = nnx.to_flat_state(Structure.of(recipe).abstract), master_dtype(recipe)
    weights = {torch_name(path): jax.ShapeDtypeStruct(param.shape, dtype) for path, param in params}
    return jax.eval_shape(partial(_begun, recipe), weights)


def in_torch_layout(recipe: Recipe, named: Named) -> Tensors:
    """Weights, averages or moments in diffusers' layout."""
    with arrays.dtype_scope(master_dtype(recipe)):
        tensors = to_torch_layout(Structure.of(recipe).state(jax.tree.map(jnp.asarray, named)))
        return {name: np.asarray(tensor) for name, tensor in tensors.items()}


def moments(state: State, kind: str) -> Named:
    """AdamW's first moments, "mu", or its second, "nu"."""
    return optax.tree.get(state.optimiser, kind)


def noise_of(recipe: Recipe, step: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The noise of a step's latents, the same however clips are put through."""
    clips, frames, height, width, _ = shape
    cells = recipe.config.spatial_compression
    latents = latent_count(frames, ENCODED_TOGETHER, recipe.config.temporal_levels)
    key = jax.random.fold_in(jax.random.key(recipe.seed), step)
    size = (clips, latents, height // cells, width // cells, recipe.config.latent_channels)
    return jax.random.normal(key, size, master_dtype(recipe))


def make_step(recipe: Recipe, mesh: Mesh | None = None, platform: str | None = None) -> Any:
    """A step as a program: bytes of clips [b, t, h, w, 3] to a new state, which takes the old one's place, and numbers.

    Args:
        mesh: whose axis "clips" the clips are dealt out over; weights are on every device.
        platform: that it is compiled for; None: the default device's.
    Returns:
        A function that `jax.jit` made.
    """
    step, options = pure_step(recipe), compiler_options(platform, recipe.compute)
    if mesh is None:
        return jax.jit(step, donate_argnums=0, compiler_options=options)
    everywhere, dealt = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(CLIPS))
    return jax.jit(
        step, donate_argnums=0, in_shardings=(everywhere, dealt), out_shardings=everywhere, compiler_options=options
    )


def pure_step(recipe: Recipe) -> Callable[[State, jax.Array], tuple[State, Named]]:
    structure, update = Structure.of(recipe), optimiser(recipe).update
    compute, master = arrays.DTYPES[recipe.compute], master_dtype(recipe)

    def of_weights(weights: Named, video: jax.Array, noise: jax.Array) -> tuple[jax.Array, Named]:
        model = structure.model({name: weight.astype(compute) for name, weight in weights.items()})
        with computed_again() if recipe.remat else nullcontext():
            return loss(recipe, model, video.astype(compute), noise)

    differentiate = jax.value_and_grad(of_weights, has_aux=True)

    def gradient(weights: Named, video: jax.Array, noise: jax.Array) -> tuple[tuple[jax.Array, Named], Named]:
        if recipe.accumulate == 1:
            return differentiate(weights, video, noise)
        pieces = jax.tree.map(lambda x: x.reshape(recipe.accumulate, -1, *x.shape[1:]), (video, noise))
        shapes = jax.eval_shape(differentiate, weights, *jax.tree.map(lambda x: x[0], pieces))
        nothing = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)

        def add(total: Any, piece: Any) -> tuple[Any, None]:
            found = differentiate(weights, *piece)
            return jax.tree.map(lambda sum_, one: sum_ + one / recipe.accumulate, total, found), None

        return jax.lax.scan(add, nothing, pieces)[0]

    def step(state: State, clips: jax.Array) -> tuple[State, Named]:
        video = clips.astype(master) / 127.5 - 1
        noise = noise_of(recipe, state.step, video.shape)
        (value, parts), gradients = gradient(state.weights, video, noise)
        changes, moments = update(gradients, state.optimiser, state.weights)
        weights = cast(Named, optax.apply_updates(state.weights, changes))
        # The first averages are of few steps, and forget the beginning.
        taken = state.step.astype(master)
        kept = jnp.minimum(recipe.averaging, (1 + taken) / (10 + taken))
        # Written so that a weight which is not trained keeps its very bits.
        average = jax.tree.map(lambda old, new: old + (1 - kept) * (new - old), state.average, weights)
        numbers = {"loss": value, **parts, "norm": optax.tree.norm(gradients)}
        return State(state.step + 1, weights, average, moments), numbers

    return step
