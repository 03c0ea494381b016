"""Real CogVideoX pipelines, tiny and random: diffusers' VAE and a backend in its place give the same video."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    CogVideoXVideoToVideoPipeline,
    DiffusionPipeline,
)
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

import twinvae
from suites.parity.bars import PIPELINE
from twinvae import PRESETS
from twinvae.bench.bars import check_shapes, hold, measured
from twinvae.checkpoint import write_checkpoint
from twinvae.seeded import seeded_tensors

HEIGHT, WIDTH, FRAMES, TEXT = 32, 48, 9, 8
WORDS = ["<pad>", "</s>", "<unk>", "a", "panda", "plays", "guitar"]
CONFIG = PRESETS["tiny"].model_copy(update={"invert_scale_latents": True})  # read by the image pipeline alone
SIZE = {"height": HEIGHT, "width": WIDTH}


def image(phase: float) -> Image.Image:
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    channels = [np.sin(rows / 5 + phase), np.cos(columns / 7 - phase), np.sin((rows + columns) / 9)]
    return Image.fromarray((127.5 * (np.stack(channels, axis=-1) + 1)).astype(np.uint8))


class Case(NamedTuple):
    """A pipeline, the channels of its transformer over those of the VAE, and what it is called with beside a prompt."""

    pipeline: type[DiffusionPipeline]
    channels: int
    inputs: dict[str, Any]


# From a text the VAE only decodes; from an image it encodes one frame too and draws a sample; from a video, all frames.
CASES: dict[str, Case] = {
    "text to video": Case(CogVideoXPipeline, 1, SIZE | {"num_frames": FRAMES}),
    "image to video": Case(CogVideoXImageToVideoPipeline, 2, SIZE | {"num_frames": FRAMES, "image": image(0.0)}),
    "video to video": Case(CogVideoXVideoToVideoPipeline, 1, SIZE | {"video": [image(n / 4) for n in range(FRAMES)]}),
}


def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def made_with(vae: Any, case: Case) -> DiffusionPipeline:
    """A pipeline whose text encoder and transformer are drawn anew from the same seed."""
    torch.manual_seed(0)
    text_encoder = T5EncoderModel(
        T5Config(vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    )
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=case.channels * CONFIG.latent_channels,
        out_channels=CONFIG.latent_channels,
        time_embed_dim=8,
        text_embed_dim=16,
        num_layers=1,
        sample_height=HEIGHT // CONFIG.spatial_compression,
        sample_width=WIDTH // CONFIG.spatial_compression,
        sample_frames=FRAMES,
        max_text_seq_length=TEXT,
        use_rotary_positional_embeddings=case.channels > 1,
    )
    pipe = case.pipeline(
        tokenizer=tokenizer(),
        text_encoder=text_encoder.eval(),
        vae=vae,
        transformer=transformer.eval(),
        scheduler=CogVideoXDDIMScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to("cpu")


def video_of(pipe: DiffusionPipeline, case: Case) -> np.ndarray:
    return pipe(
        prompt="a panda plays guitar",
        num_inference_steps=2,
        guidance_scale=6.0,
        max_sequence_length=TEXT,
        generator=torch.Generator().manual_seed(0),
        output_type="np",
        **case.inputs,
    ).frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The weights of every VAE here."""
    folder = tmp_path_factory.mktemp("vae")
    write_checkpoint(folder, CONFIG, seeded_tensors(CONFIG, 0))
    return folder


def diffusers_vae(folder: Path) -> AutoencoderKLCogVideoX:
    return AutoencoderKLCogVideoX.from_pretrained(folder, low_cpu_mem_usage=False)


def backend_vae(backend: str, mode: str, dtype: str, folder: Path) -> Any:
    return twinvae.load(backend, weights=str(folder), dtype=dtype, jit=mode == "jit").as_diffusers()


@pytest.mark.needs("pipeline", "config")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.only(mode=("jit",), dtype=("float32",))
def test_a_pipeline_gives_the_video_of_diffusers_vae(name, backend, mode, dtype, folder, once, record):
    case = CASES[name]
    expected = video_of(made_with(diffusers_vae(folder), case), case)
    assert np.mean((expected > 0) & (expected < 1)) > 0.25, "too much of the video is clipped to say anything"
    assert expected.std(axis=(2, 3)).min() > 0.05, "the video is flat"
    vae = once((__name__, backend), lambda: backend_vae(backend, mode, dtype, folder))
    swapped_in = made_with(diffusers_vae(folder), case)
    swapped_in.vae = vae
    found = {
        "made with it": video_of(made_with(vae, case), case),
        "swapped in": video_of(swapped_in, case),
    }
    both = dict.fromkeys(found, expected)
    check_shapes(found, both)
    hold(record, PIPELINE, measured(PIPELINE, found, both), f"pipeline, {name}", preset="tiny")
