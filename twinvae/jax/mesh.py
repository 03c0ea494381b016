"""Meshes: a VAE's frame batches, clips and rows dealt out to devices, and put together again.

Devices in time take a frame batch each, side by side; further batches take another round, whose first device goes on
where the last one of the round before has ended. What does not divide is filled up, and left out of what comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from twinvae.config import VAEConfig
from twinvae.frames import DECODED_TOGETHER, ENCODED_TOGETHER, decoded_frames, encoded_frames
from twinvae.jax.shards import AXES, CLIPS, ROWS, TIME, Shard, holding
from twinvae.jax.splits import Split, Work, sending_over_computing
from twinvae.tiles import Operation

SPEC = PartitionSpec(CLIPS, TIME, ROWS)  # of all that is dealt out: frames and conv caches
Shape = tuple[int, ...]


def make_mesh(clips: int = 1, time: int = 1, rows: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh for `twinvae.load(..., mesh=mesh)` and `vae.on(mesh)`.

    Args:
        clips, time, rows: over how many devices clips of a batch, frame batches and rows of frames are dealt out.
        devices: as many as their product; None: the first ones that JAX has, of all hosts.
    Raises:
        ValueError: a count below 1, or other devices than that many.
    """
    return mesh_of(dict(zip(AXES, (clips, time, rows), strict=True)), devices)


def mesh_of(counts: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of so many devices along each axis.

    Raises:
        ValueError: a count below 1, or other devices than that many.
    """
    shape = tuple(counts.values())
    asked = ", ".join(f"{axis}={count}" for axis, count in counts.items())
    if min(shape) < 1:
        raise ValueError(f"a mesh of {asked}: each must be at least 1")
    found = list(jax.devices() if devices is None else devices)
    if devices is None and len(found) >= prod(shape):
        found = found[: prod(shape)]
    if len(found) != prod(shape):
        raise ValueError(
            f"a mesh of {asked} takes {prod(shape)} devices, found {len(found)}: give others, or another mesh (to try "
            f"it on a CPU, start with XLA_FLAGS=--xla_force_host_platform_device_count={prod(shape)})"
        )
    return Mesh(np.array(found).reshape(shape), tuple(counts))


def fastest_mesh(config: VAEConfig, shape: Shape, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh on which a clip takes the least time, in frame batches of the default sizes; nothing is compiled.

    Raises:
        ValueError: a shape that is neither a video's nor latents'.
    """
    operation = operation_of(config, shape)
    together = ENCODED_TOGETHER if operation == "encode" else DECODED_TOGETHER
    found = list(jax.devices() if devices is None else devices)
    (split, *_) = fastest(Work.of(config, operation, shape, together), found)
    return make_mesh(*split, devices=found[: split.devices])


def fastest(work: Work, devices: Sequence[Any]) -> list[Split]:
    """Splits of some work over devices, the fastest first."""
    return work.fastest(len(devices), sending_over_computing(devices[0].device_kind))


def operation_of(config: VAEConfig, shape: Shape) -> Operation:
    """What is to be done to a clip, by its channels.

    Raises:
        ValueError: neither a video's nor those of latents.
    """
    known: dict[int, Operation] = {config.in_channels: "encode", config.latent_channels: "decode"}
    if len(shape) != 5 or shape[4] not in known:
        raise ValueError(
            f"a clip of {list(shape)}: expected [b, t, h, w, c] with {config.in_channels} channels of a video, or "
            f"{config.latent_channels} of latents"
        )
    return known[shape[4]]


def checked_mesh(mesh: Mesh) -> Mesh:
    """The same devices with all three axes in their order; those that a mesh lacks have a size of 1.

    Raises:
        ValueError: axes of other names, or devices of two platforms.
    """
    others = [name for name in mesh.axis_names if name not in AXES]
    if others:
        channels = " Channels cannot be sharded: every group norm and convolution needs them all." if any(
            str(name).startswith("c") for name in others) else ""  # fmt: skip
        raise ValueError(
            f"a mesh with axes {', '.join(map(repr, mesh.axis_names))}: expected names among {', '.join(AXES)}; "
            f"rename {', '.join(map(repr, others))}, or use twinvae.make_mesh.{channels}"
        )
    platforms = sorted({device.platform for device in mesh.devices.flat})
    if len(platforms) > 1:
        raise ValueError(
            f"a mesh of devices of {' and '.join(platforms)}: one program runs on all, so take those of one platform, "
            f"such as jax.devices({platforms[-1]!r})"
        )
    present = [name for name in AXES if name in mesh.axis_names]
    devices = mesh.devices.transpose([mesh.axis_names.index(name) for name in present])
    return Mesh(devices.reshape([mesh.shape.get(name, 1) for name in AXES]), AXES)


def is_here(mesh: Mesh) -> bool:
    """Whether programs can run on it, not only be compiled for it."""
    try:
        return set(mesh.devices.flat) <= set(jax.devices(mesh.devices.flat[0].platform))
    except RuntimeError:  # no such platform
        return False


def replicated(tree: Any, mesh: Mesh) -> Any:
    """A copy of arrays on every device, made of what each host has."""
    sharding = NamedSharding(mesh, PartitionSpec())
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def from_host(array: Any) -> jax.Array:
        own = np.asarray(array)
        return jax.make_array_from_callback(own.shape, sharding, own.__getitem__)

    return jax.tree.map(from_host, tree)


class NotDealtError(ValueError):
    """Frame batches that cannot be dealt out in time."""


class Deal(NamedTuple):
    """How a group of frame batches is dealt out: one to each device in time, and clips and rows to the others.

    Args:
        mesh: with all three axes.
        shape: of the group, [b, t, h, w, c].
        lead: frames of the remainder, before the first batch; where one batch is all, it is part of that.
        batch: frames of each batch but for that.
        rows: of each device.
        given: frames of the remainder and of a batch in what comes out.
        scale: rows that come out of one, as a numerator and a denominator.
        leads: frames of the remainder by all frames of a batch, in every activation.
        starts: whether the first batch begins the clip.
    """

    mesh: Mesh
    shape: Shape
    lead: int
    batch: int
    rows: int
    given: tuple[int, int]
    scale: tuple[int, int]
    leads: tuple[tuple[int, int], ...]
    starts: bool

    @property
    def batches(self) -> int:
        return (self.shape[1] - self.lead) // self.batch

    @property
    def sharding(self) -> NamedSharding:
        return NamedSharding(self.mesh, SPEC)

    @property
    def dealt_shape(self) -> Shape:
        """What the devices hold together."""
        clips = self.mesh.shape[CLIPS]
        return (
            -(-self.shape[0] // clips) * clips,
            self.mesh.shape[TIME] * (self.lead + self.batch),
            self.mesh.shape[ROWS] * self.rows,
            *self.shape[3:],
        )

    def idle(self) -> list[str]:
        """What has nothing to do, in words."""
        busy = (min(self.shape[0], self.mesh.shape[CLIPS]), self.batches, -(-self.shape[2] // self.rows))
        sizes, words = (self.shape[0], self.batches, self.shape[2]), ("clips", "frame batches", "rows")
        return [
            f"{have - used} of {have} devices along {axis!r} are idle: there is work for {used}, of {size} {what}"
            for axis, size, what, used in zip(AXES, sizes, words, busy, strict=True)
            if used < (have := self.mesh.shape[axis])
        ]

    def frames(self) -> list[int]:
        """The frames of the group that devices take, in their order; beyond the last, the last again."""
        taken = []
        for device in range(self.mesh.shape[TIME]):
            first = self.lead + device * self.batch
            taken += [*range(self.lead), *range(first, first + self.batch)]
        return [min(frame, self.shape[1] - 1) for frame in taken]

    def dealt(self, group: jax.Array) -> jax.Array:
        """The group as the devices take it."""
        if self.frames() != list(range(self.shape[1])):
            group = group[:, np.array(self.frames())]
        missing = [have - had for have, had in zip(self.dealt_shape, group.shape, strict=True)]
        return jnp.pad(group, [(0, count) for count in missing]) if any(missing) else group

    def part(self, group: np.ndarray, dtype: np.dtype, place: Any) -> np.ndarray:
        """What stands in a place (slices) of the group as it is dealt out; nothing else is read."""
        frames = np.array(self.frames())[place[1]]
        taken = np.asarray(group[place[0], :, place[2]][:, frames], dtype)
        wanted = [len(range(*cut.indices(size))) for cut, size in zip(place, self.dealt_shape, strict=True)]
        return np.pad(taken, [(0, size - had) for size, had in zip(wanted, taken.shape, strict=True)])

    def placed(self, group: Any, dtype: np.dtype) -> jax.Array:
        """The same on the devices, of which each host reads what its own take."""
        if isinstance(group, Tracer):
            return jax.lax.with_sharding_constraint(self.dealt(group), self.sharding)
        if isinstance(group, np.ndarray):
            return jax.make_array_from_callback(self.dealt_shape, self.sharding, partial(self.part, group, dtype))
        if group.sharding.device_set == self.sharding.device_set:
            return jax.jit(self.dealt, out_shardings=self.sharding)(group)
        return jax.device_put(self.dealt(group), self.sharding)

    def collected(self, out: jax.Array) -> jax.Array:
        """What the devices give, without what fills it up."""
        (lead, batch), clips = self.given, self.shape[0]
        rows = self.shape[2] * self.scale[0] // self.scale[1]
        full = clips == out.shape[0], not lead and self.batches == self.mesh.shape[TIME], rows == out.shape[2]
        # An axis of which something is left out is gathered first; cut while it is sharded, all would be.
        spec = PartitionSpec(*(axis if all_of_it else None for axis, all_of_it in zip(AXES, full, strict=True)))
        out = jax.lax.with_sharding_constraint(out, NamedSharding(self.mesh, spec))[:clips, :, :rows]
        out = out.reshape(out.shape[0], -1, lead + batch, *out.shape[2:])
        first, own = out[:, 0, :lead], out[:, : self.batches, lead:]
        own = own.reshape(own.shape[0], -1, *own.shape[3:])
        return jnp.concatenate([first, own], axis=1) if lead else own

    @property
    def shard(self) -> Shard:
        """What each device's program knows: all that it depends on, beside shapes."""
        time, parts = self.mesh.shape[TIME], self.mesh.shape[ROWS]
        return Shard(time, self.starts, self.leads, parts, self.shape[2], self.rows)

    def over_devices(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """A step of one frame batch as one of all that are dealt out."""
        shard = self.shard

        def on_device(params: Any, frames: jax.Array, cache: Any) -> Any:
            with holding(shard):
                return step(params, frames, cache)

        specs = PartitionSpec(), SPEC, SPEC
        return jax.shard_map(on_device, mesh=self.mesh, in_specs=specs, out_specs=SPEC, check_vma=False)

    def kept(self, cache: Any) -> Any:
        """The conv cache as the next group takes it: the last frame batch's on the last device."""
        empty = self.mesh.shape[TIME] - self.batches
        if not empty:
            return cache

        def moved(array: jax.Array) -> jax.Array:
            return jnp.roll(array, array.shape[1] // self.mesh.shape[TIME] * empty, axis=1)

        return jax.jit(partial(jax.tree.map, moved), out_shardings=self.sharding)(cache)


def deal(mesh: Mesh, config: VAEConfig, operation: Operation, shape: Shape, batch_size: int, starts: bool) -> Deal:
    """Deal a group of frame batches out, at most one for each device in time.

    Args:
        mesh: with all three axes.
        shape: of the group.
        batch_size: frames, or latents, that go through together.
        starts: whether the group begins the clip, and takes its remainder.
    Raises:
        NotDealtError: a remainder that cannot be told from its batch: some layer joins frames of both.
    """
    frames, height = shape[1:3]
    through = encoded_frames if operation == "encode" else decoded_frames

    def at_each_level(lead: int, batch: int) -> list[tuple[int, int]]:
        found = [(lead, batch)]
        for _ in range(config.temporal_levels):
            found.append((through(found[-1][0], 1), through(found[-1][1], 1)))
        return found

    lead = frames % batch_size if mesh.shape[TIME] > 1 and frames > batch_size else 0
    batch = batch_size if mesh.shape[TIME] > 1 and frames > batch_size else frames
    leads = at_each_level(lead, batch)
    if any(first and rest % 2 for first, rest in leads[:-1]):  # pairs of frames would be one of either
        if frames >= 2 * batch_size:
            raise NotDealtError(
                f"{operation} of {frames} frames, {batch_size} together, cannot be dealt out in time: a layer joins "
                f"two frames, one of the remainder of {lead} and one of the batch beside it. Take a number of frames "
                f"that is a multiple of {batch_size}, another frame batch size, or a mesh with time=1"
            )
        lead, batch = 0, frames  # a single batch is one device's own
        leads = at_each_level(lead, batch)
    parts, whole = mesh.shape[ROWS], config.spatial_compression if operation == "encode" else 1
    rows = height if parts == 1 else -(-height // (parts * whole)) * whole
    scale = (1, config.spatial_compression) if operation == "encode" else (config.spatial_compression, 1)
    by_frames = tuple((one + other, one) for one, other in leads)
    return Deal(mesh, shape, lead, batch, rows, leads[-1], scale, by_frames, starts)


def result_sharding(mesh: Mesh, shape: Shape, gathered: bool = False) -> NamedSharding:
    """Of what a call gives; an axis that does not divide evenly is on all devices in full: JAX has no other way.

    Args:
        gathered: every device has all of it.
    """
    names = (
        []
        if gathered
        else [name if size % mesh.shape[name] == 0 else None for name, size in zip(AXES, shape, strict=False)]
    )
    return NamedSharding(mesh, PartitionSpec(*names))


def join(mesh: Mesh, parts: Sequence[jax.Array], axis: int, gathered: bool = False) -> jax.Array:
    """Parts as one array, sharded as results are."""
    if isinstance(parts[0], Tracer):
        return jnp.concatenate(parts, axis)
    shape = list(parts[0].shape)
    shape[axis] = sum(part.shape[axis] for part in parts)
    return jax.jit(jnp.concatenate, static_argnums=1, out_shardings=result_sharding(mesh, tuple(shape), gathered))(
        parts, axis
    )
