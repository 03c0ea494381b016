"""CogVideoX's text encoder on JAX: transformers' own T5EncoderModel, and its tokenizer from a local folder."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from impl_torchax.environment import call, on_tensors
from impl_torchax.weights import check, place, read_config, stacked, tensors_of
from twinvae.arrays import checked_dtype, dtype_scope
from twinvae.jax.compiling import compiler_options
from twinvae.jax.tokens import checked_token_mesh, on_all

CLASS = "T5EncoderModel"
WEIGHTS_FILE = "model.safetensors"
MAX_TOKENS = 226  # of every CogVideoX
BLOCKS = "encoder.block."
BIAS = "0.layer.0.SelfAttention.relative_attention_bias.weight"  # of the first block alone, and for all of them

Params = dict[str, jax.Array]


def load_text_encoder(
    source: str | Path | torch.nn.Module, *, dtype: str = "bfloat16", mesh: Mesh | None = None
) -> TextEncoder:
    """transformers' T5 encoder.

    Args:
        source: a local folder with config.json and safetensors in one file or in shards, of any float dtype, or
            transformers' module.
        dtype: in which it computes: float64, float32 or bfloat16.
        mesh: of several devices, which weights are cut among: see `twinvae.jax.tokens.make_token_mesh`.
    Raises:
        FileNotFoundError, OSError: a folder without a model, or with damaged files.
        ValueError: a model of another class, weights that do not fit it, an unknown dtype, or another mesh.
    """
    from transformers import T5Config, T5EncoderModel

    mesh = None if mesh is None else checked_token_mesh(mesh)
    module = isinstance(source, torch.nn.Module)
    fields = source.config.to_dict() if module else read_config(source, CLASS)  # type: ignore[arg-type, union-attr]
    with torch.device("meta"):
        network = T5EncoderModel(T5Config.from_dict(fields)).eval()
    own = dict(network.named_parameters())
    tensors = dict(tensors_of(source, WEIGHTS_FILE))
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if name not in own and name in tensors:  # a tied one, which files hold by either name, or by both
            stored, first = tensors.pop(name), next(first for first, one in own.items() if one is parameter)
            tensors.setdefault(first, stored)
    weights = stacked({name: tuple(parameter.shape) for name, parameter in own.items()}, BLOCKS, alone=(BIAS,))
    check(weights, tensors, f"the config of this {CLASS}")
    network.encoder.block = torch.nn.ModuleList([Blocks(network.encoder.block[0], network.config)])
    with dtype_scope(checked_dtype(dtype)):
        return TextEncoder(network, place(weights, tensors, dtype, mesh), dtype, mesh)


class Blocks(torch.nn.Module):
    """All blocks in the place of the first: one scan over their stacked weights."""

    def __init__(self, first: Any, config: Any) -> None:
        from transformers.models.t5.modeling_t5 import T5Block

        super().__init__()
        attention = first.layer[0].SelfAttention
        self.bias = attention.relative_attention_bias  # the very module that `compute_bias` reads
        with torch.device("meta"):
            block = T5Block(config).eval()  # as all but the first, which alone has such a table
        self._inner = (attention, block)  # no submodules: their weights come with the call

    def forward(self, hidden_states: Any, *_: Any, blocks: Any, **__: Any) -> tuple[Any, Any, None]:
        attention, block = self._inner
        length = hidden_states.shape[1]
        bias = attention.compute_bias(length, length, device=hidden_states.device)

        def scanned(hidden: Array, bias: Array, weights: Params) -> Array:
            def step(hidden: Array, layer: Params) -> tuple[Array, None]:
                return call(block, layer, hidden, position_bias=bias)[0], None

            return jax.lax.scan(step, hidden, weights)[0]

        return on_tensors(scanned, hidden_states, bias, blocks), bias, None


class TextEncoder:
    """An encoder with its weights: `encoder(tokens)` gives the embeddings that a transformer takes.

    Attributes:
        config: transformers' fields.
        encode: compiled, a function of params and of tokens.
        params: weights by transformers' names; those of all blocks are stacked, and named without the block's number.
    """

    def __init__(self, network: Any, params: Mapping[str, jax.Array], dtype: str, mesh: Mesh | None) -> None:
        self.params, self.dtype, self.mesh = dict(params), dtype, mesh
        self.config: dict[str, Any] = network.config.to_dict()

        def encode(params: Params, tokens: Int[Array, "b n"]) -> Float[Array, "b n c"]:
            outside = {name: array for name, array in params.items() if not name.startswith(BLOCKS)}
            blocks = {name.removeprefix(BLOCKS): array for name, array in params.items() if name.startswith(BLOCKS)}
            outside["encoder.block.0.bias.weight"] = blocks.pop(BIAS)
            with warnings.catch_warnings():  # transformers asks for int64, which is int32 where 64 bits are off
                warnings.filterwarnings("ignore", "Explicitly requested dtype int64")
                return call(network, outside, tokens, return_dict=False, blocks=blocks)[0]

        self.encode = jax.jit(
            encode,
            compiler_options=compiler_options(dtype=dtype),
            out_shardings=None if mesh is None else on_all(mesh),
        )

    def __call__(self, tokens: Int[Any, "b n"]) -> Float[Array, "b n c"]:
        """Embeddings of tokens, of what fills prompts up as well, as diffusers' pipelines have it.

        Raises:
            ValueError: tokens that this model does not have.
        """
        tokens = np.asarray(tokens)
        if tokens.ndim != 2 or not 0 <= tokens.min() <= tokens.max() < self.config["vocab_size"]:
            raise ValueError(
                f"tokens of shape {tokens.shape}, from {tokens.min()} to {tokens.max()}: expected [prompts, tokens], "
                f"from 0 to {self.config['vocab_size'] - 1}; take the tokenizer of this model"
            )
        with dtype_scope(checked_dtype(self.dtype)):
            placed = jnp.asarray(tokens, jnp.int32)
            return self.encode(self.params, placed if self.mesh is None else jax.device_put(placed, on_all(self.mesh)))


def tokenize(folder: str | Path, prompts: str | Sequence[str], max_length: int = MAX_TOKENS) -> np.ndarray:
    """Tokens of prompts, filled up to `max_length`, by the tokenizer in a local folder.

    A prompt that is longer is cut, with a warning that says what of it is lost.

    Raises:
        FileNotFoundError: no tokenizer there.
        TypeError: prompts that are no text.
    """
    from transformers import AutoTokenizer

    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    for prompt in prompts:
        if not isinstance(prompt, str):
            raise TypeError(f"a prompt of type {type(prompt).__name__}: expected text; pass a str, or a list of them")
    folder = Path(folder).expanduser()
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        raise FileNotFoundError(
            f"{folder} holds no tokenizer ({str(error).splitlines()[0]}): expected tokenizer.json, or spiece.model "
            "with tokenizer_config.json; copy the folder tokenizer of the model"
        ) from error
    whole = tokenizer(prompts).input_ids
    for prompt, tokens in zip(prompts, whole, strict=True):
        if len(tokens) > max_length:
            lost = tokenizer.decode(tokens[max_length - 1 : -1])
            warnings.warn(
                f"a prompt of {len(tokens)} tokens was cut to {max_length}, as many as the model takes: lost is "
                f"{lost!r} of {prompt[:40]!r}...; write a shorter one",
                stacklevel=2,
            )
    cut = tokenizer(prompts, padding="max_length", max_length=max_length, truncation=True)
    return np.array(cut.input_ids, np.int32)
