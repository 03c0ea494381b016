"""Clips on several devices: the numbers of one, whatever the mesh, the same again, and no more sent than halos."""

from __future__ import annotations

import numpy as np
import pytest

from suites.parity import devices
from suites.parity.bars import DEVICES, HALOS, HOSTS, MESH_GRADIENTS
from twinvae.bench.bars import hold
from twinvae.bench.compile_cache import FOLDER
from twinvae.bench.metrics import max_abs

pytestmark = [pytest.mark.needs("step"), pytest.mark.only(mode=("jit",), dtype=("float64",))]

# Most faults are seen by the first: a remainder, halos in time and rows, rows that fill up, an idle device in a stream.
FIRST = {
    "two hosts": {"operation": "decode", "mesh": (1, 2, 2), "frames": 9, "together": 2, "size": (3, 2), "clips": 1},
}
# Beside the first rows of the covering array: the default frame batches of two temporal levels, slabs, and what else
# there is.
SPECIAL = {
    "defaults": {"operation": "decode", "mesh": (1, 4, 2), "frames": 33, "together": 2, "size": (3, 2), "clips": 1,
                 "levels": 2},
    "defaults, encode": {"operation": "encode", "mesh": (1, 2, 1), "frames": 29, "together": 2, "size": (2, 1),
                         "clips": 1, "levels": 2},
    "slabs": {"operation": "decode", "mesh": (1, 2, 2), "frames": 9, "together": 2, "size": (3, 2), "clips": 1,
              "slab_bytes": 1},
    "torchax": {"operation": "decode", "mesh": (1, 2, 2), "frames": 9, "together": 2, "size": (3, 2), "clips": 1,
                "backend": "torchax"},
    "torchax, encode": {"operation": "encode", "mesh": (1, 2, 2), "frames": 9, "together": 2, "size": (3, 1),
                        "clips": 1, "backend": "torchax"},
    "tiles of slices": {"operation": "decode", "mesh": (1, 2, 2), "frames": 9, "together": 2, "size": (5, 4),
                        "clips": 2, "tiles": (8, 8), "sliced": True, "gradients": True},
}  # fmt: skip
TIME_ALONE = ("defaults, encode", "row 2")  # the second in frame batches of a single latent
COUNTED = (*TIME_ALONE, "two hosts", "row 5")  # encode and decode in time; decode in time and rows; encode in rows
ROWS = {
    name: row | {"counted": name in COUNTED}
    for name, row in (FIRST | {f"row {number}": row for number, row in enumerate(devices.rows()[: devices.QUICK], 1)}
                      | SPECIAL).items()
}  # fmt: skip


def chosen(options):
    """Every row of a backend that the options select."""
    if "jit" in options.modes and "float64" in options.dtypes:
        for name, row in ROWS.items():
            if (backend := row.get("backend", "flax")) in options.backends:
                yield {"row": name, "backend": backend, "mode": "jit", "dtype": "float64"}


def of(row):
    """One case, of the backend of a row."""
    return lambda options: [case for case in chosen(options) if case["row"] == row]


def with_examples(options):
    """Hosts run an example, which is in a checkout alone."""
    return of("two hosts")(options) if (devices.ROOT / "examples").exists() else []


@pytest.fixture(scope="module")
def programs(pytestconfig):
    return pytestconfig.stash[FOLDER]


@pytest.fixture(scope="module")
def told(request, options, programs):
    """What each row gave, all of one process, which goes on while the first are looked at: as the tests come."""
    rows = [case["row"] for case in chosen(options)]
    asked = [item.callspec.params["row"] for item in request.session.items if item.path == request.path]
    in_order = dict.fromkeys([*(row for row in asked if row in rows), *rows])
    with devices.telling({row: ROWS[row] for row in in_order}, programs) as told:
        yield told


@pytest.mark.cases("row, backend, mode, dtype", chosen)
def test_a_clip_on_any_mesh_is_what_diffusers_makes_of_it_and_devices_send_no_more_than_halos(
    row, backend, mode, dtype, told, record
):
    want = devices.expected(ROWS[row])
    assert told[row].output.shape == told[row].streamed.shape == want.shape
    error = max(max_abs(found, want) for found in (told[row].output, told[row].streamed))
    hold(record, DEVICES, {"max_abs": error, "values that differ when called again": told[row].again},
         f"devices, {row}", operation=ROWS[row]["operation"])  # fmt: skip
    if row in COUNTED:
        hold_what_is_sent(record, row, told)


def hold_what_is_sent(record, row, told):
    """A halo for each causal convolution, sums of rows for each norm, and nothing else."""
    (_, time, parts), said, layers = ROWS[row]["mesh"], told[row], devices.layers_of(ROWS[row])
    values = {"permutations": said.permutes, "all-reduces": said.others.get("all-reduce", 0),
              "other collectives": sum(said.others.values()) - said.others.get("all-reduce", 0),
              "collectives that put together": said.collected}  # fmt: skip
    in_time = layers["causal"] * (2 if devices.short(ROWS[row]) else 1)
    limits = {
        "permutations": (time > 1) * in_time + (parts > 1) * (2 * layers["causal"] + layers["resizing"]),
        "all-reduces": (parts > 1) * 2 * layers["norm"],
        "other collectives": 0,
    }
    bars = {name: HALOS[name]._replace(limit=limits.get(name)) for name in values}
    hold(record, bars, values, f"devices, {row}", operation=ROWS[row]["operation"])


@pytest.mark.cases(
    "row, backend, mode, dtype", lambda options: [case for row in TIME_ALONE for case in of(row)(options)]
)
def test_what_a_device_in_time_receives_is_what_the_conv_cache_of_one_holds(row, backend, mode, dtype, told, record):
    name, said = "bytes over the halos", told[row]
    hold(record, {name: HALOS[name]}, {name: said.bytes / said.cache}, f"devices, {row}",
         operation=ROWS[row]["operation"])  # fmt: skip


@pytest.mark.cases("row, backend, mode, dtype", of("tiles of slices"))
def test_gradients_on_a_mesh_are_those_of_diffusers(row, backend, mode, dtype, told, record):
    want = devices.expected(ROWS[row], gradients=True)
    apart = {name: max_abs(told[row].gradients, want) / np.abs(want).max() for name in MESH_GRADIENTS}
    hold(record, MESH_GRADIENTS, apart, f"devices, {row}", operation="reconstruct")


@pytest.mark.cases("row, backend, mode, dtype", of("row 4"))
def test_results_are_sharded_as_the_mesh_where_they_divide(row, backend, mode, dtype, told):
    assert told[row].output.shape[:3] == (3, 2, 2)
    assert told[row].sharding[:3] == [None, "time", "rows"]  # of 3 clips on 2 devices, each has all


@pytest.mark.cases("row, backend, mode, dtype", of("row 1"))
def test_devices_that_have_nothing_to_do_are_said(row, backend, mode, dtype, told):
    (said,) = told[row].warned
    assert "1 of 2 devices along 'time' are idle: there is work for 1, of 1 frame batches" in said
    assert told["two hosts"].warned == []


@pytest.fixture(scope="module")
def hosts(programs, tmp_path_factory):
    return devices.on_two_hosts(ROWS["two hosts"], tmp_path_factory.mktemp("hosts"), programs)


@pytest.mark.cases("row, backend, mode, dtype", with_examples)
def test_two_hosts_of_which_one_has_the_checkpoint_give_the_bits_of_one(row, backend, mode, dtype, told, hosts, record):
    differing = np.count_nonzero(hosts.video.view("u8") != told[row].output.view("u8"))
    name = "values that differ on two hosts"
    hold(record, {name: HOSTS}, {name: differing}, f"devices, {row}", operation=ROWS[row]["operation"])


@pytest.mark.cases("row, backend, mode, dtype", with_examples)
def test_a_host_that_dies_ends_the_other_within_a_minute_and_that_says_which(row, backend, mode, dtype, hosts):
    assert hosts.status != 0
    assert hosts.seconds < 60
    assert "Task 1 heartbeat timeout" in hosts.said, hosts.said
