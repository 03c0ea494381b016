"""The card of this machine: whether JAX and PyTorch can use it, how much of it is free, and who holds the rest."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from typing import NamedTuple

INSTALL = "pip install 'twinvae[cuda]'"
FREE = 0.9  # of the card's memory, below which a run would measure its neighbours
CARDS = ("index", "name", "memory.total", "memory.free", "driver_version")
HOLDERS = ("pid", "process_name", "used_memory")
Smi = Callable[..., str]


class Card(NamedTuple):
    """A card as nvidia-smi says it; memory in MiB."""

    index: str
    name: str
    total: int
    free: int
    driver: str


def cards(smi: Smi) -> list[Card]:
    """Every card of the machine."""
    rows = (line.split(", ") for line in smi(f"--query-gpu={','.join(CARDS)}").splitlines() if line.strip())
    return [Card(index, name, int(total), int(free), driver) for index, name, total, free, driver in rows]


def nvidia_smi(query: str) -> str:
    """What nvidia-smi answers; nothing where there is none."""
    command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def refusal(found: Sequence[Card], smi: Smi) -> str:
    """Why the first card's numbers would not be its own; empty where they would."""
    card = found[0]
    if card.free >= FREE * card.total:
        return ""
    query = f"--query-compute-apps={','.join(HOLDERS)}"
    holders = [line.strip() for line in smi(query).splitlines() if line.strip()]
    held = "; ".join(holders) or "processes that nvidia-smi does not show, such as another container's"
    return (
        f"card {card.index}, {card.name}, has {card.free:,} of {card.total:,} MiB free, and a run needs "
        f"{100 * FREE:.0f} %: it is held by {held} (process id, name, MiB). End them, or choose another card with "
        "CUDA_VISIBLE_DEVICES"
    )


def missing(found: Sequence[Card], jax_platform: str, jax_says: str, torch_cuda: bool, torch_version: str) -> str:
    """Why nothing can be measured here, and the line that mends it; empty where something can.

    Args:
        jax_platform: on which JAX computes; jax_says: what it says when it is asked for a GPU.
        torch_cuda: whether PyTorch sees a card.
    """
    if not found and jax_platform != "gpu":
        return f"no NVIDIA card here (nvidia-smi shows none): nothing is measured. Where there is one: {INSTALL}"
    if jax_platform != "gpu":
        driver = found[0].driver
        return (
            f"{found[0].name} is here, and JAX computes on {jax_platform} ({jax_says}): {INSTALL}; CUDA 13 needs a "
            f"driver 580 or newer, and {driver} is installed"
        )
    if not torch_cuda:
        return (
            f"JAX sees the card, and PyTorch {torch_version}, which it is compared with, does not: install a build of "
            "torch with CUDA, without --index-url .../cpu"
        )
    return ""
