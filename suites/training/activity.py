"""What the trained `small` does inside on real clips: channels that are dead, SiLUs that saturate, large means.

    python -m suites.training.activity FOLDER   # of the clips that it was trained on

What was found is in docs/training.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import typer
from diffusers import AutoencoderKLCogVideoX
from torch import nn

from impl_flax.train.clips import Frames, divide
from twinvae.bench.training import read_clips
from twinvae.pretrained import TRAINED

FRAMES = 9  # of each clip, its last
FLAT = -8.0  # below it SiLU is between -0.003 and 0
DEAD = 1e-2  # of the spread of the middle channel


class Activity(NamedTuple):
    """Of a norm and of the SiLU behind it, the worst over clips and frame batches where it is not a share.

    Attributes:
        dead: share of channels in which the SiLU's output hardly changes over all clips and places.
        flat: share of the SiLU's inputs that are below -8.
        least, most: of the SiLU's inputs.
        mean: of a group of channels that the norm is given, over the group's standard deviation.
    """

    name: str
    dead: float
    flat: float
    least: float
    most: float
    mean: float


def activities(model: AutoencoderKLCogVideoX, videos: Iterable[torch.Tensor]) -> list[Activity]:
    """Of every norm that is followed by a SiLU, in the order of the network.

    Args:
        videos: [1, 3, t, h, w], in [-1, 1].
    """
    means, given, latest = defaultdict(list), defaultdict(list), []

    def on_norm(name: str, norm: nn.GroupNorm, x: torch.Tensor) -> None:
        groups = x.reshape(x.shape[0], norm.num_groups, -1)
        means[name].append((groups.mean(-1).abs() / groups.std(-1)).max().item())
        latest[:] = [name]

    def on_silu(x: torch.Tensor) -> None:
        given[latest[0]].append(x.movedim(1, -1).reshape(-1, x.shape[1]))

    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.GroupNorm):
            hooks.append(module.register_forward_pre_hook(lambda norm, x, name=name: on_norm(name, norm, x[0])))
        elif isinstance(module, nn.SiLU):
            hooks.append(module.register_forward_pre_hook(lambda _, x: on_silu(x[0])))
    with torch.no_grad():
        for video in videos:
            model.decode(model.encode(video).latent_dist.mode())
    for hook in hooks:
        hook.remove()
    return [_activity(name, torch.cat(given[name]), max(means[name])) for name in given]


def _activity(name: str, x: torch.Tensor, mean: float) -> Activity:
    spread = nn.functional.silu(x).std(0)
    dead = (spread < DEAD * spread.median()).float().mean().item()
    return Activity(name, dead, (x < FLAT).float().mean().item(), x.min().item(), x.max().item(), mean)


def as_video(frames: Frames) -> torch.Tensor:
    return torch.tensor(frames[None].astype(np.float32) / 127.5 - 1).movedim(-1, 1)


def main(clips: Path) -> None:
    """Print a row for every norm."""
    held_out = divide(read_clips(clips), "carphone").held_out
    model = AutoencoderKLCogVideoX.from_pretrained(TRAINED["small"], low_cpu_mem_usage=False)
    found = activities(model, (as_video(frames[-FRAMES:]) for frames in held_out.values()))
    print("norm | dead | below -8 | least | most | mean over spread")
    for name, *numbers in found:
        print(name, *(f"{number:.3g}" for number in numbers), sep=" | ")


if __name__ == "__main__":
    typer.run(main)
