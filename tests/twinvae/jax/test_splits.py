"""Which split of a call takes the least time."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import pytest

import twinvae
from twinvae.config import PRESETS
from twinvae.forms import ROW_SLABS
from twinvae.jax.chips import CHIPS
from twinvae.jax.splits import Split, Work, sending_over_computing

FULL = PRESETS["cogvideox-2b"]
LATENTS = (1, 21, 96, 170, 16)  # of 81 frames at 768x1360
V6E, H100 = (sending_over_computing(CHIPS[chip].device_kind) for chip in ("v6e", "h100"))


def of(shape=LATENTS, operation="decode", together=2):
    return Work.of(FULL, operation, shape, together)


def test_work_is_counted_in_rows_of_latents_and_halos_in_frames_of_what_goes_in():
    assert of() == Work(clips=1, frames=21, rows=96, together=2, halo=0.5, cells=8)
    assert of((2, 81, 770, 1360, 3), "encode", 8) == Work(clips=2, frames=81, rows=97, together=8, halo=2, cells=8)


def test_a_device_in_time_takes_a_frame_batch_a_round_and_the_remainder_in_the_first():
    assert of().rounds(1) == [3] + [2] * 9
    assert of().rounds(4) == [3, 2, 2]
    assert of().rounds(10) == [3]


@pytest.mark.parametrize(
    ("split", "time"),
    [
        (Split(), 96 * 21),
        (Split(rows=4), 24 * 21 * (1 + 2 / (8 * 24))),
        (Split(time=5), 96 * (3 + 2 + 2 * 0.5 * 2)),
        (Split(rows=10), 10 * 21 * (1 + 2 / 80)),  # of 9.6 rows
    ],
)
def test_a_split_takes_what_a_device_computes_and_what_it_is_sent(split, time):
    assert of().time(split, sending=2) == pytest.approx(time)


@pytest.mark.parametrize(
    ("work", "devices", "sending", "fastest"),
    [
        (of(), 1, V6E, Split()),
        (of(), 4, V6E, Split(rows=4)),
        (of(), 7, V6E, Split(rows=7)),
        (of((4, *LATENTS[1:])), 8, V6E, Split(clips=4, rows=2)),
        (of((1, 81, *LATENTS[2:])), 40, H100, Split(time=5, rows=8)),  # 3 rows on each of 32 would idle 8
        (of((1, 21, 2, 2, 16)), 8, 0.1, Split(time=4, rows=2)),  # there are no more rows
        (of((1, 1, 96, 170, 16)), 5, V6E, Split(rows=5)),
        (of((1, 1, 4, 170, 16)), 7, V6E, Split(rows=4)),
    ],
)
def test_the_fastest_split_comes_first(work, devices, sending, fastest):
    assert work.fastest(devices, sending)[0] == fastest


def test_what_is_not_known_sends_as_fast_as_it_computes():
    assert sending_over_computing("a card that nobody knows") == 1
    assert H100 < 1 < V6E


class Device:
    platform, process_index, device_kind = "tpu", 0, "TPU v6 lite"

    def __init__(self, number):
        self.id = number


DEVICES = [Device(number) for number in range(8)]


def test_a_mesh_is_made_for_a_shape():
    assert dict(twinvae.make_mesh(LATENTS, devices=DEVICES).shape) == {"clips": 1, "time": 1, "rows": 8}
    assert dict(twinvae.make_mesh((1, 9, 16, 1360, 3), devices=DEVICES).shape) == {"clips": 1, "time": 1, "rows": 2}
    found = twinvae.make_mesh((1, 21, 4, 4, 16), devices=DEVICES[:6])
    assert (dict(found.shape), list(found.devices.flat)) == ({"clips": 1, "time": 1, "rows": 4}, DEVICES[:4])
    assert dict(twinvae.make_mesh(LATENTS, devices=jax.devices()[:1]).shape) == {"clips": 1, "time": 1, "rows": 1}


class Planner:
    """Finds room where devices in time are as many as it says."""

    time, asked = 1, []

    def __init__(self, *given):
        pass

    def roomy_form(self, call):
        return None

    def plan(self, call):
        split = call.sharding.mesh.shape
        self.asked.append(tuple(split.values()))
        if split["time"] < self.time:
            raise MemoryError(f"{split['time']} in time are too few")
        return SimpleNamespace(exact=True, form=ROW_SLABS)


@pytest.fixture
def vae(monkeypatch):
    monkeypatch.setattr("twinvae.jax.backend.Planner", Planner)
    monkeypatch.setattr(Planner, "asked", [])
    return twinvae.load("flax", preset="tiny", memory_budget="1GiB")


def test_of_splits_the_fastest_whose_programs_fit_is_taken(vae, monkeypatch):
    shape = (2, 9, 3, 4, 4)
    assert tuple(vae.mesh_for(shape, DEVICES).shape.values()) == Planner.asked[0] == (2, 1, 3)
    monkeypatch.setattr(Planner, "time", 4)
    assert tuple(twinvae.make_mesh(shape, devices=DEVICES, vae=vae).shape.values()) == (2, 4, 1)
    assert len(Planner.asked) > 2
    monkeypatch.setattr(Planner, "time", 5)
    with pytest.raises(MemoryError, match=r"no split over 8 devices fits; Split\(clips=2, time=1, rows=3\): 1 in time"):
        vae.mesh_for(shape, DEVICES)


def test_devices_share_the_frame_batches_that_a_vae_was_set_to(vae):
    assert vae.mesh_for((1, 4, 1, 4, 4), DEVICES).shape["time"] == 2
    vae.num_latent_frames_batch_size = 1
    assert vae.mesh_for((1, 4, 1, 4, 4), DEVICES).shape["time"] == 4


def test_a_backend_is_given_no_axis_that_it_cannot_share(vae):
    vae.shared_axes = ("time",)
    assert tuple(vae.mesh_for((2, 9, 3, 4, 4), DEVICES).shape.values()) == (1, 4, 1)


def test_a_shape_that_is_of_no_clip_or_beside_counts_is_refused():
    with pytest.raises(ValueError, match=r"expected \[b, t, h, w, c\] with 3 channels of a video, or 16 of latents"):
        twinvae.make_mesh((1, 9, 4, 4, 5), devices=DEVICES)
    with pytest.raises(ValueError, match="a shape, which says how to split, and clips=1, time=2, rows=1"):
        twinvae.make_mesh(LATENTS, time=2)
    with pytest.raises(ValueError, match="the 'torch' backend runs on one device"):
        twinvae.make_mesh(LATENTS, vae=twinvae.load("torch", preset="tiny"))
    with pytest.raises(ValueError, match="jit=True"):
        twinvae.make_mesh((1, 3, 4, 4, 4), vae=twinvae.load("flax", preset="tiny", jit=False))
