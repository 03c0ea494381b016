"""Ports that compute next to nothing, as text: shapes of the tiny preset, and whatever else a test says."""

from __future__ import annotations

from pathlib import Path

FUNCTIONS = """
import numpy as np
from twinvae.frames import latent_count, sample_count

preset, arrays = "tiny", "numpy"


def encode(video):
    b, t, h, w, _ = video.shape
    mean = video[:, : latent_count(t, 8, 2), : h // 8, : w // 8, :1]
    return np.broadcast_to(mean, (*mean.shape[:4], 8))


def decode(latents):
    b, t, h, w, _ = latents.shape
    frames = latents[:, np.zeros(sample_count(t, 2, 2), int), ..., :3]
    return frames.repeat(8, 2).repeat(8, 3)
"""
# To stand behind them: a class in their place, with more to it.
CLASS = """
encode_, decode_ = encode, decode
del preset, encode, decode
class Mine:
    use_slicing = False
    num_sample_frames_batch_size, num_latent_frames_batch_size = 8, 2
    def __init__(self, tensors): self.count = tensors
    def encode(self, x): return encode_(x)
    def decode(self, x): return decode_(x) * 0 + self.count
    def activations(self, operation, clip): return {operation: clip}
"""


def written(folder: Path, more: str = "", name: str = "mine.py", text: str = FUNCTIONS) -> str:
    """The path of a port that was written into a folder; `more` stands at its end."""
    path = folder / name
    path.write_text(text + more)
    return str(path)
