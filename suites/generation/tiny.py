"""Tiny random pipelines, as folders that diffusers saves and reads: every part, no hub.

python -m suites.generation.tiny DIR [KIND, such as 2b, 5b, 1.5]
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    DiffusionPipeline,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from twinvae import PRESETS
from twinvae.checkpoint import write_checkpoint
from twinvae.seeded import seeded_tensors

WORDS = ["<pad>", "</s>", "<unk>", "a", "panda", "plays", "guitar", "blurry"]
HEIGHT, WIDTH, FRAMES, TOKENS = 32, 48, 9, 8
PROMPT, NEGATIVE = "a panda plays guitar", "blurry"
VAE = PRESETS["tiny"]
ROTARY = {"use_rotary_positional_embeddings": True}
IN_TIME = ROTARY | {"patch_size_t": 2, "patch_bias": False}
FROM_IMAGES = {"in_channels": 2 * VAE.latent_channels}
KINDS: dict[str, dict[str, Any]] = {
    "2b": {},
    "5b": ROTARY,
    "1.5": IN_TIME,
    "i2v": ROTARY | FROM_IMAGES,
    "1.5 i2v": IN_TIME | FROM_IMAGES | {"ofs_embed_dim": 8},
}
SCHEDULER = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True, "snr_shift_scale": 1.0, "timestep_spacing": "trailing", "clip_sample": False,
    "set_alpha_to_one": True,
}  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def write_pipeline(folder: Path, kind: str = "2b", seed: int = 0) -> Path:
    """A pipeline of a kind, every weight drawn from a seed, in float32."""
    generator = torch.Generator().manual_seed(seed)
    text_encoder = T5EncoderModel(
        T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, dropout_rate=0.0)
    )
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, out_channels=VAE.latent_channels, time_embed_dim=8,
        text_embed_dim=16, num_layers=2, sample_height=HEIGHT // 8, sample_width=WIDTH // 8, sample_frames=FRAMES,
        max_text_seq_length=TOKENS, **({"in_channels": VAE.latent_channels} | KINDS[kind]),
    )  # fmt: skip
    with torch.no_grad():
        for module in (text_encoder, transformer):
            for weight in module.parameters():
                scale, mean = (weight.shape[-1] ** -0.5, 0.0) if weight.ndim > 1 else (0.3, 0.5)
                weight.copy_(torch.randn(weight.shape, generator=generator) * scale + mean)
    config = VAE.model_copy(update={"invert_scale_latents": kind.startswith("1.5")})  # as published models have it
    write_checkpoint(folder / "vae", config, seeded_tensors(config, seed))
    vae = AutoencoderKLCogVideoX.from_pretrained(folder / "vae", low_cpu_mem_usage=False)
    scheduler = (CogVideoXDDIMScheduler if kind in ("2b", "i2v") else CogVideoXDPMScheduler)(**SCHEDULER)
    make = CogVideoXImageToVideoPipeline if "i2v" in kind else CogVideoXPipeline
    make(tokenizer(), text_encoder.eval(), vae, transformer.eval(), scheduler).save_pretrained(folder)
    return folder


def read_pipeline(
    folder: Path, kind: type[DiffusionPipeline] = CogVideoXPipeline, dtype: str = "float32", **parts: Any
) -> Any:
    """diffusers' own pipeline of such a folder."""
    pipe = kind.from_pretrained(folder, dtype=getattr(torch, dtype), low_cpu_mem_usage=False, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


if __name__ == "__main__":
    print(f"wrote {write_pipeline(Path(sys.argv[1]), *sys.argv[2:3])}")
