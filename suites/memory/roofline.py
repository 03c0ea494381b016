"""The least time that a program can take on a card, and how much of the time that was measured it is."""

from __future__ import annotations

from typing import NamedTuple

from twinvae.bench.aot.programs import Program
from twinvae.jax.chips import CHIPS


class Measured(NamedTuple):
    """A call on a card: its seconds, and its memory in GB beyond the weights and the clip."""

    seconds: float
    memory: float


# As docs/gpu.md has them, by chip, backend, operation and clip.
MEASURED_CALLS = {
    ("h100", "flax", "decode", "9x480x720"): Measured(0.122, 7.34),
    ("h100", "torchax", "decode", "9x480x720"): Measured(0.131, 7.38),
    ("h100", "flax", "encode", "9x480x720"): Measured(0.065, 4.6),
    ("h100", "torchax", "encode", "9x480x720"): Measured(0.064, 4.6),
}


class Roofline(NamedTuple):
    """Seconds that a program's arithmetic takes at a card's rate, and its bytes at the bandwidth of its memory."""

    arithmetic: float
    traffic: float

    @property
    def seconds(self) -> float:
        return max(self)


def roofline(program: Program, chip: str, dtype: str) -> Roofline:
    spec = CHIPS[chip]
    return Roofline(program.flops / (spec.rates[dtype] * 1e12), program.bytes_accessed / (spec.bandwidth * 1e12))
