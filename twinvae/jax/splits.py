"""Splits: over how many devices each axis of a call is dealt out, and which of them take the least time."""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from twinvae.config import VAEConfig
from twinvae.frames import frame_batches, grouped
from twinvae.jax.chips import CHIPS
from twinvae.jax.shards import SEEN
from twinvae.tiles import Operation

# Most of the time goes to convolutions of 3x3x3 of 128 channels, of which every number that is sent takes part in so
# many operations.
OPERATIONS = 2 * 27 * 128
BFLOAT16 = 2  # bytes


class Split(NamedTuple):
    """Devices along each axis of a mesh."""

    clips: int = 1
    time: int = 1
    rows: int = 1

    @property
    def devices(self) -> int:
        return prod(self)


class Work(NamedTuple):
    """What there is to deal out.

    Args:
        clips: of the batch.
        frames: of video to encode, or latents to decode.
        rows: of latents: no device takes a part of one.
        together: frames, or latents, of a frame batch.
        halo: what a causal convolution sees of earlier frames, in the same unit where frames are largest.
        cells: rows of pixels that a row of latents is.
    """

    clips: int
    frames: int
    rows: int
    together: int
    halo: float
    cells: int

    @classmethod
    def of(cls, config: VAEConfig, operation: Operation, shape: tuple[int, ...], together: int) -> Work:
        cells, encode = config.spatial_compression, operation == "encode"
        rows = -(-shape[2] // cells) if encode else shape[2]
        return cls(shape[0], shape[1], rows, together, SEEN / (1 if encode else 2**config.temporal_levels), cells)

    def rounds(self, time: int) -> list[int]:
        """The frames that each device in time takes, round after round; the remainder has its place in the first."""
        batches = frame_batches(self.frames, self.together)
        first = batches[0].stop - batches[0].start
        return [first] + [self.together] * (len(grouped(batches, time)) - 1)

    def splits(self, devices: int) -> list[Split]:
        """All of as many devices or less in which none is sure to be idle."""
        batches = len(frame_batches(self.frames, self.together))
        return [
            Split(clips, time, rows)
            for clips in range(1, min(self.clips, devices) + 1)
            for time in range(1, min(batches, devices // clips) + 1)
            for rows in range(1, min(self.rows, devices // (clips * time)) + 1)
        ]

    def time(self, split: Split, sending: float) -> float:
        """What a device takes, in rows of a frame: those that it computes, and those that it is sent.

        Args:
            sending: the time for a row that is sent, over that for one that is computed.
        """
        clips, rows = -(-self.clips // split.clips), -(-self.rows // split.rows)
        halo = self.halo * sending if split.time > 1 else 0
        edges = sending / (self.cells * rows) if split.rows > 1 else 0  # one up and one down, at once
        return clips * rows * (1 + edges) * sum(frames + halo for frames in self.rounds(split.time))

    def fastest(self, devices: int, sending: float) -> list[Split]:
        """All splits, the fastest first, and of those that take as long the one of fewer devices."""
        return sorted(self.splits(devices), key=lambda split: (self.time(split, sending), split.devices))


def sending_over_computing(device_kind: str) -> float:
    """The time for a number that is sent to a neighbour, over that for one that is computed, by published rates.

    1 where the device is not known: rows send less than time in any case.
    """
    chip = next((chip for chip in CHIPS.values() if chip.device_kind == device_kind), None)
    if chip is None:
        return 1.0
    return BFLOAT16 / (chip.link * 1e9) * chip.rates["bfloat16"] * 1e12 / OPERATIONS
