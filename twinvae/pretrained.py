"""The weights of presets: trained ones that are part of the package, else seeded ones."""

from __future__ import annotations

from pathlib import Path

from twinvae.checkpoint import read_checkpoint
from twinvae.config import preset_config
from twinvae.seeded import seeded_tensors
from twinvae.tensors import Tensors

TRAINED = {"small": Path(__file__).parent / "weights" / "small"}  # diffusers folders, each with a card


def preset_tensors(name: str, seed: int) -> Tensors:
    """A preset's weights; those that were trained are the same for every seed.

    Raises:
        ValueError: no such preset, or a seed that is no whole number from 0 up.
        OSError: trained weights that are missing from what is installed, or damaged.
    """
    seeded = preset_config(name)
    return read_checkpoint(TRAINED[name])[1] if name in TRAINED else seeded_tensors(seeded, seed)
