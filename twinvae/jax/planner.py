"""Which form of a backend a call takes: the fastest whose compiled peak, with all that lives beside it, fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax

from twinvae.arrays import DTYPES
from twinvae.forms import COLUMN_SLABS, ROW_SLABS, Form
from twinvae.frames import frame_batches, sample_count
from twinvae.jax.memory import ROUGHLY, Plan, largest_activation, peak_bytes, shown, tree_bytes, usable_bytes
from twinvae.tiles import Operation, TileGrid

if TYPE_CHECKING:
    from twinvae.jax.backend import JaxVideoVAE

Shape = tuple[int, ...]


def device_of(sharding: Any) -> jax.Device:
    """The first device of a sharding; the default device where it is None."""
    return jax.devices()[0] if sharding is None else min(sharding.device_set, key=lambda device: device.id)


def budget_of(vae: JaxVideoVAE, sharding: Any) -> int | None:
    """Bytes that a call may use: what the VAE was given, else what the device has; None where that is not known."""
    return usable_bytes(device_of(sharding)) if vae.memory_budget is None else vae.memory_budget


def forms_of(vae: JaxVideoVAE, sharding: Any) -> list[Form]:
    """The backend's forms for a sharding, the fastest first: slabs run along the axis that is not sharded."""
    rows_sharded = isinstance(sharding, jax.sharding.NamedSharding) and (*sharding.spec, *[None] * 5)[2] is not None
    left_out = ROW_SLABS if rows_sharded else COLUMN_SLABS
    return [form for form in vae.forms if form != left_out]


def roomy_form(
    vae: JaxVideoVAE, operation: Operation, shape: Shape, grid: TileGrid | None, sharding: Any
) -> Form | None:
    """The fastest form where the budget is so much larger than a call that nothing has to be compiled to know."""
    budget = budget_of(vae, sharding)
    rough = _rough_peak(vae, operation, _piece(shape, grid), sharding) + _clips(vae, operation, shape)
    return vae.forms[0] if budget is None or rough <= budget else None


def make_plan(vae: JaxVideoVAE, operation: Operation, shape: Shape, sharding: Any) -> Plan:
    """Compile forms, the fastest first, until one fits; tiles come last, because they give other numbers.

    Raises:
        MemoryError: none fits; the message names the smallest budget that would do.
    """
    grid, budget = vae._grid(operation, shape), budget_of(vae, sharding)
    of_vae = vae._batch_size(operation), vae.forms, vae.slab_bytes, repr(vae.tiles)
    key = operation, shape, sharding, budget, repr(grid), *of_vae
    if key not in vae._plans:
        vae._plans[key] = _plan(vae, operation, shape, sharding, grid, budget)
    return vae._plans[key]


def _plan(
    vae: JaxVideoVAE, operation: Operation, shape: Shape, sharding: Any, grid: TileGrid | None, budget: int | None
) -> Plan:
    ways = [(form, grid) for form in forms_of(vae, sharding)]
    if grid is None and (tiles := _possible_tiles(vae, operation, shape)):
        ways += [(form, tiles) for form in forms_of(vae, sharding)]
    considered: list[tuple[str, int | None]] = []
    for form, tiles in ways:
        peak = _peak(vae, operation, shape, tiles, form, sharding)
        considered.append((form if tiles is None else f"{form} in tiles", peak))
        if peak is not None and (budget is None or peak <= budget):
            return Plan(operation, shape, form, tiles is not None, peak, budget, tuple(considered))
    least = min((peak for _, peak in considered if peak), default=None)
    would_do = f"{shown(least)} would do" if least else "not even the compiler finds room for any form on this device"
    raise MemoryError(
        f"{operation} of {list(shape)} fits in no form into {shown(budget or 0)}: {would_do}. Give a larger "
        "memory_budget, smaller tiles (enable_tiling), fewer frames or smaller ones"
    )


def _possible_tiles(vae: JaxVideoVAE, operation: Operation, shape: Shape) -> TileGrid | None:
    """The tiles that the settings make of a frame; None where they leave a last one that the encoder cannot take."""
    try:
        return vae._tiles(operation, shape)
    except ValueError:
        return None


def _peak(
    vae: JaxVideoVAE, operation: Operation, shape: Shape, grid: TileGrid | None, form: Form, sharding: Any
) -> int | None:
    """Bytes that a call needs at its most: a step, and what lives beside it.

    None where a step does not compile because the device has not enough memory.
    """
    piece = _piece(shape, grid)
    batches = frame_batches(shape[1], vae._batch_size(operation))
    shapes = [(piece[0], batch.stop - batch.start, *piece[2:]) for batch in (batches[0], *batches[1:2])]
    steps = []
    for first, frames in zip((True, False), shapes, strict=False):
        try:
            steps.append(peak_bytes(vae.lower_step(operation, frames, sharding, first, form).compile()))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return None
    if len(batches) == 1 and grid is None:  # the clip and what comes out are the step's own
        return steps[0]
    return max(steps) + _clips(vae, operation, shape) // _shards(sharding, shape)


def _rough_peak(vae: JaxVideoVAE, operation: Operation, piece: Shape, sharding: Any) -> int:
    """More than any form needs for a step, without compiling: see `ROUGHLY`."""
    batch = max(batch.stop - batch.start for batch in frame_batches(piece[1], vae._batch_size(operation)))
    elements = largest_activation(vae.config, operation, (piece[0], batch, *piece[2:4]))
    activations = ROUGHLY * elements * DTYPES[vae.dtype].itemsize // _shards(sharding, piece)
    return activations + tree_bytes(vae.params)


def _clips(vae: JaxVideoVAE, operation: Operation, shape: Shape) -> int:
    """Bytes of the video beside a step: what goes in, or twice what comes out, in parts and joined.

    Latents are left out: a three-hundredth of it.
    """
    if operation == "encode":
        return _cells(shape) * vae.config.in_channels * DTYPES[vae.dtype].itemsize
    frames = sample_count(shape[1], vae._batch_size(operation), vae.config.temporal_levels)
    pixels = shape[0] * frames * shape[2] * shape[3] * vae.config.spatial_compression**2
    return 2 * pixels * vae.config.out_channels * DTYPES[vae.dtype].itemsize


def _piece(shape: Shape, grid: TileGrid | None) -> Shape:
    """The shape of the largest tile, or of the clip."""
    if grid is None:
        return shape
    sides = (max(part.stop - part.start for part in axis.slices) for axis in grid)
    return (*shape[:2], *sides, shape[4])


def _shards(sharding: Any, shape: Shape) -> int:
    """Into how many parts a sharding cuts an array."""
    if sharding is None:
        return 1
    local = sharding.shard_shape(shape)
    return -(-_cells(shape) // _cells(local))


def _cells(shape: Shape) -> int:
    return shape[0] * shape[1] * shape[2] * shape[3]
