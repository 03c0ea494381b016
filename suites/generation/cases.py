"""The programs of denoising, by name: CogVideoX1.5-5B at 81 frames of 768x1360, on one chip and on meshes."""

from __future__ import annotations

CONFIG = {
    "num_attention_heads": 48, "attention_head_dim": 64, "in_channels": 16, "out_channels": 16, "time_embed_dim": 512,
    "text_embed_dim": 4096, "num_layers": 42, "sample_width": 170, "sample_height": 96, "sample_frames": 81,
    "patch_size": 2, "patch_size_t": 2, "patch_bias": False, "use_rotary_positional_embeddings": True,
}  # fmt: skip
LATENTS = (1, 22, 96, 170, 16)  # of 81 frames at 768x1360, and one that fills the patches up
TEXT = 226
TOKENS = TEXT + 11 * 48 * 85
STEPS = 50
HEADS, WIDTH = CONFIG["num_attention_heads"], CONFIG["attention_head_dim"]

LAYERS = CONFIG["num_layers"]
STEP = "a step with guidance"
ONE_CHIP, MESH = f"{STEP}, one chip", f"{STEP}, dp 2, tp 4"
OTHER_MESHES = {f"{STEP}, dp 2, sp 2, tp 2": (2, 2, 2), f"{STEP}, tp 8": (1, 1, 8)}
SHALLOW = f"{MESH}, 4 blocks"
# Queries of a block that are tried, by keys together; the most that fit are told.
EDGES = {256: (6656, 13312), 1408: (3328, 6656, 13312)}
KEYS = 2816  # of a block
ATTENTION = f"attention of {TOKENS} tokens"


def tried(queries: int, together: int) -> str:
    """The name of attention with other blocks."""
    return f"{ATTENTION}, blocks of {queries} queries, {KEYS} keys, {together} together"
