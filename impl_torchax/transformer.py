"""CogVideoX's transformer on JAX: diffusers' own CogVideoXTransformer3DModel, its blocks as one scan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from diffusers.models.embeddings import Timesteps, apply_rotary_emb
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

from impl_torchax.environment import call, on_tensors
from impl_torchax.modules import without_weights
from impl_torchax.weights import check, place, read_config, stacked, tensors_of
from twinvae.arrays import checked_dtype, dtype_scope
from twinvae.checkpoint import WEIGHTS_FILE
from twinvae.jax.compiling import compiler_options
from twinvae.jax.tokens import (
    DP,
    VIDEO,
    Dealt,
    checked_token_mesh,
    filled_to,
    gathered,
    on_all,
    weight_spec,
)

CLASS = CogVideoXTransformer3DModel.__name__
BLOCKS = "transformer_blocks."
POSITIONS = "patch_embed.pos_embedding"  # a buffer, of 2b in no checkpoint
OFFSET = 2.0  # of the latents of an image, which diffusers' pipeline gives each model that asks for it ("ofs")
PIXELS = 8  # along a side of what one cell of latents stands for
LEARNED = "use_learned_positional_embeddings"

Params = dict[str, jax.Array]
Positions = tuple[Array, Array] | Array | None  # cosines and sines of tokens, or what is added to them


def load_transformer(
    source: str | Path | torch.nn.Module, *, dtype: str = "bfloat16", mesh: Mesh | None = None
) -> Transformer:
    """CogVideoX's transformer: 2b, 5b or 1.5, from text or from an image as well.

    Args:
        source: a local folder with config.json and safetensors in one file or in shards, of any float dtype, or
            diffusers' module.
        dtype: in which it computes: float64, float32 or bfloat16.
        mesh: of several devices: see `twinvae.jax.tokens.make_token_mesh`. Weights are cut among all of them.
    Raises:
        FileNotFoundError, OSError: a folder without a model, or with damaged files.
        ValueError: a model of another class, weights that do not fit it, an unknown dtype, or another mesh.
    """
    checked_dtype(dtype)
    module = isinstance(source, torch.nn.Module)
    fields: Any = source.config if module else read_config(source, CLASS)  # type: ignore[arg-type]
    network = Network({name: value for name, value in fields.items() if not name.startswith("_")}, mesh)
    tensors = tensors_of(source, WEIGHTS_FILE)
    check(network.weights, tensors, f"the config of this {CLASS}")
    with dtype_scope(checked_dtype(dtype)):
        return Transformer(network, place(network.weights, tensors, dtype, network.mesh), dtype)


class Transformer:
    """A transformer with its weights.

    Attributes:
        config: diffusers' fields.
        params: weights by diffusers' names; those of all blocks are stacked, and named without the block's number.
    """

    def __init__(self, network: Network, params: Params, dtype: str) -> None:
        self.network, self.params, self.dtype = network, dict(params), dtype
        self.config, self.mesh = network.config, network.mesh
        self._programs: dict[Any, Callable[..., Any]] = {}

    def __call__(
        self, latents: Float[Any, "b t h w c"], text: Float[Any, "b n e"], timesteps: Any
    ) -> Float[Array, "b t h w o"]:
        """The prediction for noisy latents.

        Args:
            timesteps: one of all clips, or one of each.
        """
        with self.scope():
            dtype = jnp.dtype(self.dtype)
            latents, text = (self.placed(jnp.asarray(x, dtype)) for x in (latents, text))
            sinusoids = self.sinusoids(np.broadcast_to(timesteps, latents.shape[:1]))
            predict = self.program(_call)
            return predict(self.params, latents, text, sinusoids, self.positions(latents.shape))

    def scope(self) -> Any:
        """Where JAX computes in this dtype."""
        return dtype_scope(checked_dtype(self.dtype))

    def placed(self, array: jax.Array) -> jax.Array:
        """An array on all devices of the mesh."""
        return array if self.mesh is None else jax.device_put(array, on_all(self.mesh))

    def sinusoids(self, timesteps: Any) -> Float[Array, "steps c"]:
        return self.placed(jnp.asarray(self.network.sinusoids(timesteps)))

    def positions(self, shape: tuple[int, ...]) -> Positions:
        """What tells tokens of latents of this shape apart, see `Network.positions`."""
        return jax.tree.map(lambda table: self.placed(jnp.asarray(table)), self.network.positions(shape))

    def program(self, function: Callable[..., Any], **static: Any) -> Callable[..., Any]:
        """A function of `predict` and of arrays, compiled; the same one for the same arguments."""
        key = function, tuple(sorted(static.items()))
        if key not in self._programs:
            self._programs[key] = jax.jit(
                partial(function, self.network.predict, **static),
                compiler_options=compiler_options(dtype=self.dtype),
                out_shardings=None if self.mesh is None else on_all(self.mesh),
            )
        return self._programs[key]


class Network:
    """A transformer without its weights.

    Args:
        config: diffusers' fields.
        mesh: of several devices.
    Raises:
        ValueError: another mesh than one for tokens.
        TypeError: a field that diffusers does not know.
    """

    def __init__(self, config: Mapping[str, Any], mesh: Mesh | None = None) -> None:
        self.mesh = None if mesh is None else checked_token_mesh(mesh)
        module: Any = without_weights(CogVideoXTransformer3DModel, dict(config))
        self.config = {name: value for name, value in module.config.items() if not name.startswith("_")}
        self.weights = stacked({name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}, BLOCKS)
        # Made on the host: XLA's exp in float32 differs in the last bit, of which a timestep of 500 makes 1.4e-5.
        module.time_proj = torch.nn.Identity()
        self._offset = None
        if module.ofs_proj is not None:
            self._offset, module.ofs_proj = (
                _sinusoids(self.config, self.config["ofs_embed_dim"], [OFFSET]),
                module.time_proj,
            )
        if hasattr(module.patch_embed, "pos_embedding"):
            self._table = module.patch_embed._get_positional_embeddings  # of any size, where the buffer has one
            module.patch_embed._get_positional_embeddings = lambda *_, **__: module.patch_embed.pos_embedding
        module.transformer_blocks = torch.nn.ModuleList([Blocks(module.transformer_blocks[0], self.mesh)])
        self.module = module

    def predict(
        self,
        params: Params,
        latents: Float[Array, "b t h w c"],
        text: Float[Array, "b n e"],
        sinusoids: Float[Array, "b s"],
        positions: Positions,
    ) -> Float[Array, "b t h w o"]:
        """Pure: the prediction for noisy latents, with an image's beside them in the channels where the model has it.

        Args:
            sinusoids: of the timestep of each clip: see `sinusoids`.
            positions: see `positions`.
        """
        outside = {name: array for name, array in params.items() if not name.startswith(BLOCKS)}
        blocks = {name.removeprefix(BLOCKS): array for name, array in params.items() if name.startswith(BLOCKS)}
        given: dict[str, Any] = {"attention_kwargs": {"blocks": blocks}}
        if self.config["use_rotary_positional_embeddings"]:
            given["image_rotary_emb"] = positions
        else:
            outside[POSITIONS] = positions  # type: ignore[assignment]
        if self._offset is not None:
            given["ofs"] = jnp.asarray(self._offset)
        if self.mesh is not None:  # else the partitioner cuts hidden states as it finds weights cut, and back
            whole = on_all(self.mesh)
            outside = {name: jax.lax.with_sharding_constraint(array, whole) for name, array in outside.items()}
        latents = jnp.moveaxis(latents, -1, 2)
        (out,) = call(self.module, outside, latents, text, sinusoids, return_dict=False, **given)
        return jnp.moveaxis(out, 2, -1)

    def sinusoids(self, timesteps: Any) -> Float[np.ndarray, "steps c"]:
        """diffusers' embedding of timesteps, which the transformer learns from."""
        width = self.config["num_attention_heads"] * self.config["attention_head_dim"]
        return _sinusoids(self.config, width, timesteps)

    def positions(self, shape: tuple[int, ...]) -> Any:
        """diffusers' tables of where tokens are: cosines and sines of rotary models, else what is added to all tokens.

        Args:
            shape: of latents, [b, t, h, w, c].
        Raises:
            ValueError: sizes that this model does not divide into patches, or was not made for.
        """
        config = self.config
        _, frames, height, width, _ = shape
        patch, in_time = config["patch_size"], config["patch_size_t"] or 1
        if height % patch or width % patch or frames % in_time:
            raise ValueError(
                f"latents of {frames} frames, {height}x{width}: this model makes patches of {in_time} frames, "
                f"{patch}x{patch}; take {-(-frames // in_time) * in_time} frames, "
                f"{-(-height // patch) * patch}x{-(-width // patch) * patch} (a cell is {PIXELS} pixels wide)"
            )
        if config[LEARNED] and (height, width) != (config["sample_height"], config["sample_width"]):
            raise ValueError(
                f"latents of {height}x{width}: this model has learned where tokens are at {config['sample_height']}x"
                f"{config['sample_width']} alone; take that size"
            )
        if config["use_rotary_positional_embeddings"]:
            model = SimpleNamespace(config=SimpleNamespace(**config))
            pipeline: Any = SimpleNamespace(transformer=model, vae_scale_factor_spatial=PIXELS)
            make: Any = CogVideoXPipeline._prepare_rotary_positional_embeddings  # diffusers' own, of either kind
            return tuple(table.numpy() for table in make(pipeline, height * PIXELS, width * PIXELS, frames, "cpu"))
        pixels = (frames - 1) * config["temporal_compression_ratio"] + 1
        return self._table(height, width, pixels, device="cpu").numpy()


class Blocks(torch.nn.Module):
    """All blocks in the place of the first: one scan over their stacked weights, on each device of a mesh its part."""

    def __init__(self, block: Any, mesh: Mesh | None) -> None:
        super().__init__()
        self._inner = (block, mesh)  # no submodule: its weights come with the call

    def forward(
        self,
        hidden_states: Any,
        encoder_hidden_states: Any,
        temb: Any,
        image_rotary_emb: Any = None,
        attention_kwargs: Any = None,
    ) -> Any:
        tensors = hidden_states, encoder_hidden_states, temb, image_rotary_emb, attention_kwargs["blocks"]
        return on_tensors(self._scanned, *tensors)

    def _scanned(self, video: Array, text: Array, emb: Array, rotary: Any, weights: Params) -> tuple[Array, Array]:
        block, mesh = self._inner
        if mesh is None:
            return _scan(block, JointAttention(None), lambda layer: layer, video, text, emb, rotary, weights)
        dealt = Dealt(mesh.shape[VIDEO[0]], mesh.shape[VIDEO[1]], text.shape[1], video.shape[1])
        clips = -(-len(video) // mesh.shape[DP]) * mesh.shape[DP]
        specs = {name: weight_spec(mesh, weight.shape, stacked=True) for name, weight in weights.items()}

        def whole(layer: Params) -> Params:
            return {name: gathered(weight, specs[name]) for name, weight in layer.items()}

        over_clips, of_video = PartitionSpec(DP), PartitionSpec(DP, VIDEO)
        on_device: Any = jax.shard_map(
            partial(_scan, block, JointAttention(dealt), whole),
            mesh=mesh,
            in_specs=(of_video, over_clips, over_clips, PartitionSpec(VIDEO), specs),
            out_specs=(of_video, over_clips),
            check_vma=False,
        )
        rotary = jax.tree.map(lambda table: filled_to(table, dealt.filled, 0), rotary)
        arrays = [filled_to(array, clips, 0) for array in (filled_to(video, dealt.filled, 1), text, emb)]
        of_clips, of_text = on_device(*arrays, rotary, weights)
        return of_clips[: len(video), : video.shape[1]], of_text[: len(text)]


class JointAttention:
    """diffusers' `CogVideoXAttnProcessor2_0` without writing into slices, and with tokens dealt out to devices.

    (Written in place, rotary embeddings become a scatter, of which XLA's CPU computes wrong numbers where heads are
    sharded: jax 0.10.2.)
    """

    def __init__(self, dealt: Dealt | None) -> None:
        self.dealt = dealt

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image_rotary_emb: Any = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        text = encoder_hidden_states.shape[1]
        tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)

        def heads(projected: torch.Tensor) -> torch.Tensor:
            return projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        def placed(x: torch.Tensor) -> torch.Tensor:
            if image_rotary_emb is None:
                return x
            x = x if x.dtype == torch.float64 else x.float()  # as it is rotated: attention rounds it
            return torch.cat([x[:, :, :text], apply_rotary_emb(x[:, :, text:], image_rotary_emb)], dim=2)  # type: ignore[list-item]

        q, k, v = heads(attn.to_q(tokens)), heads(attn.to_k(tokens)), heads(attn.to_v(tokens))
        q = placed(q if attn.norm_q is None else attn.norm_q(q))
        k = placed(k if attn.norm_k is None else attn.norm_k(k))
        if self.dealt is None:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = on_tensors(self.dealt.attention, q, k, v)
        out = attn.to_out[0](out.transpose(1, 2).flatten(2))
        return out[:, text:], out[:, :text]


def _scan(
    block: Any, attention: JointAttention, whole: Callable[[Params], Params], video: Array, text: Array, emb: Array,
    rotary: Any, weights: Params,
) -> tuple[Array, Array]:  # fmt: skip
    def step(carry: tuple[Array, Array], layer: Params) -> tuple[tuple[Array, Array], None]:
        video, text = carry
        with _processor(block, attention):
            return call(block, whole(layer), video, text, emb, image_rotary_emb=rotary), None

    (video, text), _ = jax.lax.scan(step, (video, text), weights)
    return video, text


@contextmanager
def _processor(block: Any, attention: JointAttention) -> Iterator[None]:
    """While a block is traced: it belongs to a network, of which other threads may trace other sizes."""
    before = block.attn1.processor
    block.attn1.set_processor(attention)
    try:
        yield
    finally:
        block.attn1.set_processor(before)


def _call(predict: Any, *args: Any) -> Any:
    return predict(*args)


def _sinusoids(config: Mapping[str, Any], width: int, timesteps: Any) -> np.ndarray:
    project = Timesteps(width, config["flip_sin_to_cos"], config["freq_shift"])
    return project(torch.as_tensor(np.array(timesteps))).numpy()
