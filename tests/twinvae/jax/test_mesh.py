"""Meshes without devices: what is dealt out to whom, which meshes are refused, and why."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import twinvae
from suites.parity.devices import config_of
from twinvae.bench.effort import little_effort
from twinvae.config import PRESETS
from twinvae.forms import ROW_SLABS
from twinvae.frames import frame_batches, grouped
from twinvae.interface import ConvCache
from twinvae.jax.mesh import checked_mesh, deal, make_mesh
from twinvae.jax.planner import shards
from twinvae.registry import backend_module
from twinvae.seeded import seeded_tensors

TINY = PRESETS["tiny"]


def mesh_of(clips=1, time=1, rows=1):
    """What a deal asks a mesh for."""
    return SimpleNamespace(shape={"clips": clips, "time": time, "rows": rows})


def dealt(operation, frames, batch, starts=True, height=32, clips=1, **axes):
    channels = TINY.in_channels if operation == "encode" else TINY.latent_channels
    return deal(mesh_of(**axes), TINY, operation, (clips, frames, height, 32, channels), batch, starts)


@pytest.mark.parametrize(
    ("operation", "frames", "batch", "time", "expected"),
    [
        ("decode", 4, 2, 2, [0, 1, 2, 3]),
        ("decode", 5, 2, 2, [0, 1, 2, 0, 3, 4]),
        ("decode", 5, 2, 3, [0, 1, 2, 0, 3, 4, 0, 4, 4]),
        ("decode", 3, 2, 2, [0, 1, 2, 0, 2, 2]),
        ("decode", 3, 1, 3, [0, 1, 2]),
        ("encode", 19, 8, 2, [*range(11), *range(3), *range(11, 19)]),
        ("encode", 9, 8, 1, [*range(9)]),
    ],
)
def test_each_device_takes_a_frame_batch_behind_the_place_of_the_remainder(operation, frames, batch, time, expected):
    assert dealt(operation, frames, batch, time=time).frames() == expected


class Read(np.ndarray):
    """Says how much of it was read: what an index of frames copied."""

    copied: ClassVar = []

    def __getitem__(self, key):
        found = super().__getitem__(key)
        if isinstance(key, tuple) and isinstance(key[1], np.ndarray):
            self.copied.append((self.shape, found.shape))
        return found


@pytest.mark.parametrize(
    ("group", "read"),
    [
        (dealt("decode", 5, 2, time=2, height=5, rows=2, clips=2), ((2, 5, 3, 32, 4), (2, 3, 3, 32, 4))),
        (dealt("decode", 3, 2, time=2, height=5, clips=3), ((3, 3, 5, 32, 4), (3, 3, 5, 32, 4))),
    ],
)
def test_a_device_is_given_its_part_of_what_is_dealt_out_and_no_more_is_read(group, read, monkeypatch):
    clip = np.random.default_rng(0).random(group.shape, np.float32).view(Read)
    want = np.asarray(group.dealt(jax.numpy.asarray(np.asarray(clip))))
    monkeypatch.setattr(Read, "copied", [])
    _, time, rows = group.mesh.shape.values()
    frames, height = group.dealt_shape[1] // time, group.dealt_shape[2] // rows
    for device, row in np.ndindex(time, rows):
        of_device, of_row = (slice(at * size, (at + 1) * size) for at, size in ((device, frames), (row, height)))
        place = (slice(None), of_device, of_row, slice(None), slice(None))
        found = group.part(clip, np.dtype("float16"), place)
        assert found.dtype == "float16"
        np.testing.assert_array_equal(found, want[place].astype("float16"))
    assert Read.copied[0] == read
    assert len(Read.copied) == time * rows


def test_frame_batches_run_side_by_side_in_groups_whose_last_takes_what_is_left():
    assert grouped(frame_batches(9, 2), 3) == [slice(0, 7), slice(7, 9)]


def test_the_remainder_is_followed_through_every_layer():
    assert dealt("encode", 19, 8, time=2).leads == ((11, 3), (6, 2), (3, 1))
    assert dealt("decode", 5, 2, time=2).leads == ((3, 1), (5, 1), (9, 1))


def test_rows_that_do_not_divide_are_filled_up_to_whole_latents():
    assert dealt("decode", 2, 2, height=30, rows=4).dealt_shape == (1, 2, 32, 32, TINY.latent_channels)
    assert dealt("encode", 8, 8, height=37, rows=2).rows == 24
    assert dealt("decode", 2, 2, height=5, rows=4).idle() == [
        "1 of 4 devices along 'rows' are idle: there is work for 3, of 5 rows"
    ]


def test_a_remainder_that_layers_join_with_its_batch_is_refused_where_it_cannot_be_one_devices():
    with pytest.raises(
        ValueError, match=r"encode of 7 frames, 3 together, cannot be dealt out in time.*remainder of 1"
    ):
        dealt("encode", 7, 3, time=2)
    assert dealt("encode", 5, 3, time=2).batch == 5
    assert dealt("encode", 7, 3, time=1).batch == 7


def test_an_array_that_does_not_divide_is_cut_into_as_many_parts_as_its_largest_fills():
    (device,) = jax.devices()[:1]
    sharding = NamedSharding(Mesh(np.array([[device]]), ("clips", "rows")), PartitionSpec("clips", None, "rows"))
    assert shards(sharding, (1, 5, 30, 8, 3)) == 1
    assert shards(None, (1, 5, 30, 8, 3)) == 1


# Refusals


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"time": 0}, "clips=1, time=0, rows=1: each must be at least 1"),
        ({"time": 4, "rows": 500}, r"takes 2000 devices, found .*xla_force_host_platform_device_count=2000"),
        ({"time": 2, "devices": jax.devices()[:1]}, "takes 2 devices, found 1"),
    ],
)
def test_a_mesh_of_other_devices_than_it_takes_is_refused(asked, words):
    with pytest.raises(ValueError, match=words):
        make_mesh(**asked)


class Device:
    def __init__(self, platform):
        self.platform = platform


def stand_in(names, platforms, shape):
    devices = np.array([Device(platform) for platform in platforms]).reshape(shape)
    return SimpleNamespace(axis_names=names, devices=devices, shape=dict(zip(names, shape, strict=True)))


@pytest.mark.parametrize(
    ("names", "platforms", "words"),
    [
        (("data", "rows"), ("cpu", "cpu"), r"'data', 'rows': expected names among clips, time, rows; rename 'data'"),
        (("channels",), ("cpu", "cpu"), r"Channels cannot be sharded"),
        (("time",), ("cpu", "tpu"), r"devices of cpu and tpu.*jax.devices\('tpu'\)"),
    ],
)
def test_a_mesh_of_other_axes_or_of_two_platforms_is_refused(names, platforms, words):
    with pytest.raises(ValueError, match=words):
        checked_mesh(stand_in(names, platforms, (2,) if len(names) == 1 else (2, 1)))


def test_axes_in_another_order_keep_their_devices():
    given = stand_in(("rows", "time"), ["cpu"] * 6, (2, 3))
    found = checked_mesh(given)
    assert dict(found.shape) == {"clips": 1, "time": 3, "rows": 2}
    assert (found.devices[0] == given.devices.T).all()


def test_what_a_backend_cannot_share_is_said_with_the_axis_and_the_reason(monkeypatch):
    monkeypatch.setattr("twinvae.jax.backend.checked_mesh", lambda mesh: mesh)
    vae = twinvae.load("flax", preset="tiny")
    vae.shared_axes = ("clips",)
    with pytest.raises(ValueError, match=r"'flax' backend shares clips among devices, not time nor rows: its layers"):
        vae.on(mesh_of(time=2, rows=2))
    with pytest.raises(ValueError, match=r"a mesh runs compiled programs: load with jit=True"):
        twinvae.load("flax", preset="tiny", jit=False).on(mesh_of(time=2))
    with pytest.raises(ValueError, match=r"the 'torch' backend runs on one device"):
        twinvae.load("torch", preset="tiny", mesh=mesh_of())


def test_a_sharding_of_channels_or_beside_a_mesh_is_refused():
    mesh = make_mesh()
    channels = NamedSharding(mesh, PartitionSpec(None, None, None, None, "rows"))
    vae = twinvae.load("flax", preset="tiny")
    with pytest.raises(ValueError, match="shards channels, which every convolution needs all of"):
        vae.plan((1, 3, 4, 4, 4), sharding=channels)
    with pytest.raises(ValueError, match=r"on a mesh.*cannot take"):
        vae.on(mesh).plan((1, 3, 4, 4, 4), sharding=NamedSharding(mesh, PartitionSpec("rows")))


def test_a_stream_is_not_resumed_with_a_conv_cache_of_another_mesh():
    vae = twinvae.load("flax", preset="tiny")
    latents = np.zeros((1, 2, 4, 4, 4), np.float32)
    cache = ConvCache("decode", "flax", vae.checkpoint, (1, 4, 4, "float32"), None, ({},), (1, 2, 1))
    with pytest.raises(ValueError, match=r"its mesh \(clips, time, rows\) is \(1, 2, 1\), expected \(1, 1, 1\)"):
        vae.decode_stream(latents, cache)


def test_the_only_group_of_a_clip_keeps_no_conv_cache_in_slabs():
    least = config_of()
    made = backend_module("flax").load(least, seeded_tensors(least, 0), dtype="float32", jit=True, checkpoint="")
    vae = made.on(make_mesh())
    vae.forms = (ROW_SLABS,)

    def handed_on(latents):
        lowered = vae.lower_call("decode", (1, latents, 3, 2, 2))
        return [len(jax.tree.leaves(one.out_info)) > 1 for one in lowered.values()]

    assert (handed_on(3), handed_on(5)) == ([False], [True, True])
    with little_effort():
        assert vae.decode(np.zeros((1, 3, 3, 2, 2), np.float32)).shape == (1, 5, 6, 4, 3)
