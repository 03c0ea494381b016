"""Shards: the part of a clip that a device holds, and what its layers get of the devices beside it.

Devices in time hold a frame batch each, those in rows some rows of it. A causal convolution sees two frames before its
own: the conv cache has them, or the device before. Convolutions see a row on either side, norms sums of all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

CLIPS, TIME, ROWS = AXES = ("clips", "time", "rows")  # of a mesh: over which devices share clips, frame batches, rows
SEEN = 2  # earlier frames that a causal convolution of 3 sees
Frames = Float[Array, "b _t _h _w _c"]
Cache = Frames | None


class Shard(NamedTuple):
    """What the program of one device knows of its part.

    Every frame batch is as long as the clip's first, which takes the remainder: elsewhere, what stands in the
    remainder's place (`leads`) counts nowhere.

    Args:
        batches: devices in time, each with a frame batch; 1 where none share it.
        starts: whether the first device's frame batch begins the clip.
        leads: pairs of all frames of an activation and those of them that are in the remainder's place.
        parts: devices in rows.
        height: rows of the frames that go in; over all devices, and without those that fill up the last ones.
        rows: of those on each device.
    """

    batches: int
    starts: bool
    leads: tuple[tuple[int, int], ...]
    parts: int
    height: int
    rows: int

    # Time

    def begins(self) -> Bool[Array, ""]:
        """Whether this device's frame batch begins the clip."""
        return (lax.axis_index(TIME) == 0) & self.starts

    def lead(self, frames: int) -> int:
        """Of so many frames, those in the remainder's place."""
        return dict(self.leads)[frames] if self.batches > 1 else 0

    def earlier(self, last: Frames, frames: int, cache: Cache) -> Frames:
        """The frames before this device's batch, by one permutation (of one frame each, two where that is its batch).

        Args:
            last: the batch's last two frames, or the one that it has.
            frames: of the batch.
            cache: what `kept` gave in the group of batches before; the last device's is read.
        """
        here = lax.axis_index(TIME)
        # The frames after the last device begin the next group.
        pairs = [(one, (one + 1) % self.batches) for one in range(self.batches)
                 if cache is not None or one + 1 < self.batches]  # fmt: skip

        def from_before(sent: Frames, places: slice) -> Frames:
            if cache is not None:
                sent = jnp.where(here == self.batches - 1, cache[:, places], sent)
            return lax.ppermute(sent, TIME, pairs)

        if frames - self.lead(frames) >= SEEN:
            return from_before(last, slice(None))
        near = from_before(last[:, -1:], slice(-1, None))
        # The device before was sent the frame before its own, but for a clip's first, which counts twice.
        far = from_before(jnp.where(self.begins(), last[:, :1], near), slice(0, 1))
        return jnp.concatenate([far, near], axis=1)

    def kept(self, earlier: Frames, last: Frames, frames: int) -> Frames:
        """The last two frames up to the end of this device's batch: its conv cache."""
        if frames - self.lead(frames) >= SEEN:
            return last
        seen = jnp.concatenate([earlier[:, -1:], last[:, -1:]], axis=1)
        if not self.starts:
            return seen
        return jnp.where(self.begins(), last if frames >= SEEN else jnp.repeat(last, SEEN, axis=1), seen)

    def behind(self, earlier: Frames, x: Frames) -> Frames:
        """A frame batch behind the frames that it sees before it."""
        if not self.starts:
            return jnp.concatenate([earlier, x], axis=1)
        lead = self.lead(x.shape[1])
        front = jnp.concatenate([jnp.repeat(x[:, :1], SEEN, axis=1), x[:, :lead]], axis=1)
        seen = jnp.where(self.begins(), front[:, lead:], earlier)
        return jnp.concatenate([front[:, :lead], seen, x[:, lead:]], axis=1)

    # Rows

    def valid(self, rows: int) -> int:
        """Rows of all devices that are no filling, of an activation of so many rows on each."""
        return self.height * rows // self.rows

    def filled(self, rows: int) -> bool:
        """Whether some device holds rows of no frame."""
        return self.valid(rows) < self.parts * rows

    def real(self, first: Array | int, cells: int, rows: int) -> Bool[Array, "cells 1 1"]:
        """Which of `cells` rows from `first` on are a frame's, of a device's `rows`."""
        row = lax.axis_index(ROWS) * rows + first + jnp.arange(cells)
        return (row < self.valid(rows))[:, None, None]

    def zero_filled(self, x: Array, first: Array | int = 0, rows: int | None = None) -> Array:
        """`x` with zeros, as a convolution's padding is, in rows of no frame."""
        rows = x.shape[-3] if rows is None else rows
        return jnp.where(self.real(first, x.shape[-3], rows), x, 0) if self.filled(rows) else x

    def above(self, last: Array) -> Array:
        """The last rows of the device above, to whose counterpart here these are; zero beyond the frame."""
        return lax.ppermute(last, ROWS, [(part, part + 1) for part in range(self.parts - 1)])

    def below(self, first: Array) -> Array:
        """The first rows of the device below."""
        return lax.ppermute(first, ROWS, [(part + 1, part) for part in range(self.parts - 1)])

    # Norms

    def moments(self, x: Frames, mean_of: Callable[[Array], Array]) -> tuple[Array, Array]:
        """Each channel's mean and variance over all rows of the frame batch, without what counts nowhere.

        Args:
            mean_of: of channels [b, c], the mean over each one's group.
        """
        lead, rows = self.lead(x.shape[1]), x.shape[2]
        count = self.valid(rows) * x.shape[3] * (x.shape[1] - lead)
        counted = None
        if lead:
            frame = jnp.arange(x.shape[1])[:, None, None, None] >= lead
            counted = frame | self.begins()
            count = count + jnp.where(self.begins(), self.valid(rows) * x.shape[3] * lead, 0)
        if self.filled(rows):
            real = self.real(0, rows, rows)
            counted = real if counted is None else counted & real

        def mean(x: Array) -> Array:
            total = (x if counted is None else jnp.where(counted, x, 0)).sum((1, 2, 3))
            total = lax.psum(total, ROWS) if self.parts > 1 else total
            return mean_of(total / count)[:, None, None, None]

        middle = mean(x)
        return middle, mean(jnp.square(x - middle))


_held: ContextVar[Shard | None] = ContextVar("shard", default=None)


@contextmanager
def holding(shard: Shard | None) -> Iterator[None]:
    """What is traced within is the program of a device that holds a part; of one that holds all where it is None."""
    token = _held.set(shard)
    try:
        yield
    finally:
        _held.reset(token)


def in_time() -> Shard | None:
    """The part that is traced for, where devices share time."""
    shard = _held.get()
    return shard if shard and shard.batches > 1 else None


def in_rows() -> Shard | None:
    """The part that is traced for, where devices share rows."""
    shard = _held.get()
    return shard if shard and shard.parts > 1 else None


def held() -> Shard | None:
    """The part that is traced for, where devices share time or rows."""
    return in_time() or in_rows()


def padded_rows(x: Array, pads: tuple[int, int]) -> tuple[Array, tuple[int, int]]:
    """`x` with the rows beside it that a convolution sees, and the padding that is left to do: all, or none."""
    shard, (above, below) = in_rows(), pads
    if shard is None or above + below == 0:
        return x, pads
    x = shard.zero_filled(x)
    parts = [x]
    if above:
        parts.insert(0, shard.above(x[..., x.shape[-3] - above :, :, :]))
    if below:
        parts.append(shard.below(x[..., :below, :, :]))
    return jnp.concatenate(parts, axis=-3), (0, 0)


def beside(at: Callable[[int, int], Array], size: int) -> tuple[Array | int, Array | int]:
    """The row above and the row below those of a device, which makes them when asked; zero where it has all."""
    shard = in_rows()
    return (shard.above(at(size - 1, 1)), shard.below(at(0, 1))) if shard else (0, 0)
