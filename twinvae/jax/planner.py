"""What a call needs, and which form it takes: the fastest whose compiled peak, with all that lives beside it, fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

import jax

from twinvae.arrays import DTYPES
from twinvae.config import VAEConfig
from twinvae.forms import COLUMN_SLABS, ROW_SLABS, Form
from twinvae.frames import decoded_frames, encoded_frames, frame_batches, grouped
from twinvae.jax.memory import peak_bytes
from twinvae.plan import Plan
from twinvae.sizes import shown
from twinvae.tiles import Operation, TileGrid

Shape = tuple[int, ...]
# No program has been seen to need more than this many times its largest activation, beside parameters and cache.
ROUGHLY = 16


class Call(NamedTuple):
    """What is asked for: all that a plan depends on.

    Args:
        shape: [b, t, h, w, c] of the video or the latents that go through together.
        batch_size: frames, or latents, that go through together.
        grid: the tiles that frames are cut into; None where they are not.
        spare: the tiles that they may be cut into where nothing else fits; None where there are none.
        forms: the backend's, the fastest first.
        slab_bytes: of a slab's input, in the forms that have slabs.
        budget: bytes that may be used; None where that is not known.
        sharding: of the clip.
        streamed: what comes out stays in its parts, and is not joined at the end.
        turns: how many such clips go through, one after the other: those of a batch that is sliced.
        together: frame batches that devices in time run side by side.
    """

    operation: Operation
    shape: Shape
    batch_size: int
    grid: TileGrid | None = None
    spare: TileGrid | None = None
    forms: tuple[Form, ...] = ()
    slab_bytes: int = 0
    budget: int | None = None
    sharding: Any = None
    streamed: bool = False
    turns: int = 1
    together: int = 1

    @property
    def ways(self) -> tuple[Form, ...]:
        """The forms for the sharding, the fastest first: slabs run along the axis that is not sharded."""
        sharding = self.sharding
        by_rows = isinstance(sharding, jax.sharding.NamedSharding) and (*sharding.spec, *[None] * 5)[2] is not None
        left_out = ROW_SLABS if by_rows and COLUMN_SLABS in self.forms else COLUMN_SLABS
        return tuple(form for form in self.forms if form != left_out)

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes two calls the same: slices have no hash before Python 3.12."""
        return (*self._replace(grid=None, spare=None), repr(self.grid), repr(self.spare))


class Step(NamedTuple):
    """A kind of frame batch that a call runs, of the largest tile.

    Args:
        first: without a conv cache.
        shape: of its input.
        beside: bytes that live while it runs, and are none of its arguments, results or temporaries.
        alone: the only one of its clip, which hands no conv cache on.
    """

    first: bool
    shape: Shape
    beside: int
    alone: bool


# Whether a program's peak is known: None where it does not fit the device.
PeakOf = Callable[[jax.stages.Lowered], int | None]
Lower = Callable[[Operation, Shape, Any, bool, Form, bool], jax.stages.Lowered]


def compiled_peak(lowered: jax.stages.Lowered) -> int | None:
    """The peak of a program by its compiler's word; None where it does not fit the device."""
    try:
        return peak_bytes(lowered.compile())
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None


class Planner:
    """Plans for the calls of one VAE; each is made once.

    Args:
        lower: `lower(operation, shape, sharding, first, form, alone)` gives the program of a frame batch.
        parameter_bytes: of the weights, which every program takes.
        peak_of: the peak of a program.
    """

    def __init__(
        self, config: VAEConfig, dtype: str, lower: Lower, parameter_bytes: int, peak_of: PeakOf = compiled_peak
    ) -> None:
        self.config, self.itemsize = config, DTYPES[dtype].itemsize
        self.lower, self.parameter_bytes, self.peak_of = lower, parameter_bytes, peak_of
        self._plans: dict[Any, Plan] = {}

    def plan(self, call: Call) -> Plan:
        """Compile forms, the fastest first, until one fits; tiles come last, because they give other numbers.

        Raises:
            MemoryError: none fits; the message names the smallest budget that would do.
        """
        if call.key not in self._plans:
            self._plans[call.key] = self._planned(call)
        return self._plans[call.key]

    def roomy_form(self, call: Call) -> Form | None:
        """The fastest form where the budget is so much larger than a call that nothing has to be compiled to know."""
        return call.forms[0] if call.budget is None or self.rough_peak(call) <= call.budget else None

    def rough_peak(self, call: Call) -> int:
        """More than a call needs in any form, without compiling: see `ROUGHLY`."""
        step = max(steps(self.config, call, self.itemsize), key=lambda step: step.shape[1])
        activations = ROUGHLY * largest_activation(self.config, call.operation, step.shape[:4]) * self.itemsize
        return activations // shards(call.sharding, step.shape) + self.parameter_bytes + self._clips(call)

    def peak(self, call: Call, form: Form) -> int | None:
        """Bytes that a call needs at its most; None where a step does not fit the device."""
        found = [self._joining(call)]
        for step in steps(self.config, call, self.itemsize):
            peak = self.peak_of(self.lower(call.operation, step.shape, call.sharding, step.first, form, step.alone))
            if peak is None:
                return None
            found.append(peak + step.beside // shards(call.sharding, call.shape))
        return max(found)

    def _planned(self, call: Call) -> Plan:
        ways: list[tuple[Form, TileGrid | None]] = [(form, call.grid) for form in call.ways]
        if call.grid is None and call.spare:
            ways.extend((form, call.spare) for form in call.ways)
        considered: list[tuple[str, int | None]] = []
        for form, grid in ways:
            peak = self.peak(call._replace(grid=grid), form)
            considered.append((form if grid is None else f"{form} in tiles", peak))
            if peak is not None and (call.budget is None or peak <= call.budget):
                exact = grid is call.grid
                shape = (call.turns * call.shape[0], *call.shape[1:])
                return Plan(call.operation, shape, form, grid, exact, peak, call.budget, tuple(considered))
        least = min((peak for _, peak in considered if peak), default=None)
        would_do = f"{shown(least)} would do" if least else "not even the compiler finds room for any form"
        raise MemoryError(
            f"{call.operation} of {list(call.shape)} fits in no form into {shown(call.budget or 0)}: {would_do}. Give "
            "a larger memory_budget, smaller tiles (enable_tiling), fewer frames or smaller ones"
        )

    def _joining(self, call: Call) -> int:
        """Bytes in use while the parts of a result become one array."""
        if call.streamed or (call.grid is None and call.turns * len(lengths(call)) == 1):
            return 0
        clips = call.turns * (prod(call.shape) + 2 * output_of(self.config, call))
        return self.parameter_bytes + clips * self.itemsize // shards(call.sharding, call.shape)

    def _clips(self, call: Call) -> int:
        """Bytes of the video beside a step: what goes in, or twice what comes out, in parts and joined.

        Latents are left out: a three-hundredth of it.
        """
        size = prod(call.shape) if call.operation == "encode" else 2 * output_of(self.config, call)
        return call.turns * size * self.itemsize


def lengths(call: Call) -> list[int]:
    """Frames, or latents, of each frame batch, or group of them that run side by side."""
    batches = frame_batches(call.shape[1], call.batch_size)
    return [batch.stop - batch.start for batch in grouped(batches, call.together)]


def steps(config: VAEConfig, call: Call, itemsize: int) -> tuple[Step, ...]:
    """The largest frame batches that a call runs, first and later, with what lives beside each at the worst.

    That is the clip's input and the output that has been made, which stay on the device. In tiles it is the finished
    tiles of two rows as well: those above, and those on the left. A clip of one frame batch has nothing beside it; of
    several that take turns, all are there, and what the others gave.
    """
    batches = lengths(call)
    rows, columns = (longest(axis.slices) for axis in call.grid) if call.grid else call.shape[2:4]
    held = _finished_tiles(config, call, rows, columns, batches) if call.grid else 0
    every = call.shape[0] * output_cells(config, call.operation, batches, rows, columns)
    others = call.turns * prod(call.shape) + (call.turns - 1) * output_of(config, call) if call.turns > 1 else 0
    found = []
    for first, length in zip((True, False), batches[:2], strict=False):
        piece = (call.shape[0], length, rows, columns, call.shape[4])
        own = call.shape[0] * output_cells(config, call.operation, [length], rows, columns)
        made = 0 if call.grid is None and first else every - own
        beside = (prod(call.shape) - prod(piece) + held + made + others) * itemsize
        found.append(Step(first, piece, beside, alone=len(batches) == 1))
    return tuple(found)


def largest_activation(config: VAEConfig, operation: Operation, piece: Shape) -> int:
    """Elements of the largest activation of a frame batch [b, t, h, w], of video to encode or latents to decode.

    The decoder's last upsampling keeps the channels of the level before.
    """
    batch, frames, height, width = piece
    widths = config.block_out_channels
    if operation == "encode":
        return batch * frames * height * width * widths[0]
    pixels = height * width * config.spatial_compression**2
    return batch * decoded_frames(frames, config.temporal_levels) * pixels * max(widths[:2])


def output_of(config: VAEConfig, call: Call) -> int:
    """Numbers in what a call gives."""
    return call.shape[0] * output_cells(config, call.operation, lengths(call), *call.shape[2:4])


def output_cells(config: VAEConfig, operation: Operation, batches: Sequence[int], rows: int, columns: int) -> int:
    """Numbers of output of one clip: of frame batches of these lengths, of frames of so many input rows and columns."""
    through = encoded_frames if operation == "encode" else decoded_frames
    channels = 2 * config.latent_channels if operation == "encode" else config.out_channels
    frames = sum(through(length, config.temporal_levels) for length in batches)
    scale = _scale(config, operation)
    return int(frames * rows * scale * columns * scale * channels)


def longest(slices: Sequence[slice]) -> int:
    return max(part.stop - part.start for part in slices)


def shards(sharding: Any, shape: Shape) -> int:
    """Into how many parts a sharding cuts an array; what does not divide is filled up."""
    if isinstance(sharding, jax.sharding.NamedSharding):
        sizes = [prod(sharding.mesh.shape[name] for name in _names(axis)) for axis in sharding.spec]
        own = [-(-size // count) for size, count in zip(shape, [*sizes, *[1] * len(shape)], strict=False)]
        return max(1, prod(shape) // prod(own))
    return 1 if sharding is None else -(-prod(shape) // prod(sharding.shard_shape(shape)))


def _names(axis: Any) -> tuple[str, ...]:
    """The mesh axes that one axis of an array is cut along."""
    return () if axis is None else axis if isinstance(axis, tuple) else (axis,)


def device_of(sharding: Any) -> jax.Device:  # pyright: ignore[reportInvalidTypeForm]  # jax has it as a variable
    """The first device of a sharding; the default device where it is None."""
    return jax.devices()[0] if sharding is None else min(sharding.device_set, key=lambda device: device.id)


def _finished_tiles(config: VAEConfig, call: Call, rows: int, columns: int, batches: Sequence[int]) -> int:
    """Numbers of output that lie in the rows joined so far, in the row of tiles above, and in those on the left."""
    done, across = len(call.grid.rows.slices) - 1, len(call.grid.columns.slices)
    one = output_cells(config, call.operation, batches, rows, columns)
    joined = done * call.grid.rows.limit / _scale(config, call.operation)  # in input rows
    rows_joined = output_cells(config, call.operation, batches, 1, call.shape[3]) * joined
    return call.shape[0] * (int(rows_joined) + one * (across * min(done, 1) + across - 1))


def _scale(config: VAEConfig, operation: Operation) -> float:
    """Output rows of one input row."""
    return 1 / config.spatial_compression if operation == "encode" else config.spatial_compression
