"""Tiny CogVideoX transformers and a T5 encoder with seeded weights, and inputs for them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from transformers import T5Config, T5EncoderModel

SINCOS = {
    "num_attention_heads": 4, "attention_head_dim": 16, "in_channels": 4, "out_channels": 4, "time_embed_dim": 16,
    "text_embed_dim": 32, "num_layers": 2, "sample_width": 12, "sample_height": 8, "sample_frames": 9,
    "patch_size": 2, "max_text_seq_length": 10,
}  # fmt: skip
ROTARY = SINCOS | {"use_rotary_positional_embeddings": True}
IN_TIME = ROTARY | {"patch_size_t": 2, "patch_bias": False}
FROM_IMAGES = {"in_channels": 8, "sample_frames": 9}
CONFIGS: dict[str, dict[str, Any]] = {
    "2b": SINCOS,
    "5b": ROTARY,
    "1.5": IN_TIME,
    "5b from images": ROTARY | FROM_IMAGES | {"use_learned_positional_embeddings": True},
    "1.5 from images": IN_TIME | FROM_IMAGES | {"ofs_embed_dim": 16},
}
TIMESTEPS = (999, 500)  # of two clips


def seeded(module: torch.nn.Module, dtype: str) -> Any:
    """Weights of about the size that training gives them, the same in every dtype."""
    drawn = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in module.parameters():
            scale, mean = (p.shape[-1] ** -0.5, 0) if p.ndim > 1 else (0.3, 0.5)
            p.copy_(torch.randn(p.shape, generator=drawn) * scale + mean)
    return module.eval().to(getattr(torch, dtype))


@cache
def transformer(kind: str, dtype: str = "float64", **fields: Any) -> Any:
    return seeded(CogVideoXTransformer3DModel(**CONFIGS[kind] | fields), dtype)


@cache
def text_encoder(dtype: str, layers: int = 2) -> Any:
    config = T5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=layers, num_heads=4, feed_forward_proj="gated-gelu"
    )
    return seeded(T5EncoderModel(config), dtype)


def shape(kind: str, batch: int = 2) -> tuple[int, ...]:
    """Of latents, [b, t, h, w, c]."""
    return batch, 4 if "1.5" in kind else 3, 8, 12, CONFIGS[kind]["in_channels"]


def inputs(kind: str, batch: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Latents and text embeddings."""
    rng, config = np.random.default_rng(seed), CONFIGS[kind]
    text = rng.standard_normal((batch, config["max_text_seq_length"], config["text_embed_dim"]))
    return rng.standard_normal(shape(kind, batch)), text


def reference(kind: str, dtype: str, batch: int = 2, **fields: Any) -> np.ndarray:
    """diffusers' prediction on PyTorch, channel-last."""
    latents, text = inputs(kind, batch)
    kept, kinds = transformer(kind, dtype, **fields), {"dtype": getattr(torch, dtype)}
    pipeline = CogVideoXPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=kept, scheduler=None)
    _, frames, height, width, _ = latents.shape
    rotary = kept.config.use_rotary_positional_embeddings and pipeline._prepare_rotary_positional_embeddings(
        8 * height, 8 * width, frames, "cpu"
    )
    with torch.no_grad():
        out = kept(
            torch.tensor(np.moveaxis(latents, -1, 2), **kinds), torch.tensor(text, **kinds),
            torch.tensor(TIMESTEPS[:batch]), image_rotary_emb=rotary or None, return_dict=False,
            ofs=torch.tensor([2.0], **kinds) if kept.config.ofs_embed_dim else None,
        )[0]  # fmt: skip
    return np.moveaxis(out.double().numpy(), 2, -1)
