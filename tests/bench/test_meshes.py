"""Suites on a mesh: what is asked for, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import pytest

from twinvae.bench.meshes import Asked, asked
from twinvae.bench.options import OPTIONS
from twinvae.bench.places import SUITES
from twinvae.bench.plugin import NOT_TAKEN, port_speaks
from twinvae.jax.mesh import NotDealtError, result_sharding


@pytest.fixture
def began(monkeypatch):
    """What JAX is told, which has begun in this process."""
    told = {}
    monkeypatch.setattr(jax.config, "update", lambda name, value: told.update({name: value}))
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given: told.update(hosts=given))
    return told


def test_nothing_is_asked_for_without_the_option():
    assert asked(None, None) is None


def test_devices_are_there_before_jax_begins(began):
    found = asked("time=2,rows=4", None)
    assert (found, found.label) == (Asked({"time": 2, "rows": 4}), "-mesh-1x2x4")
    assert began == {"jax_num_cpu_devices": 8}


def test_each_of_several_hosts_has_its_part_of_them(began):
    assert asked("clips=2,time=2", "1/2@localhost:1234") == Asked({"clips": 2, "time": 2}, hosts=2, host=1)
    assert began == {"jax_num_cpu_devices": 2, "hosts": ("localhost:1234", 2, 1)}


@pytest.mark.parametrize(
    ("mesh", "host", "words"),
    [
        ("width=2", None, "--mesh width=2: expected counts of clips, time, rows"),
        ("time=0", None, "expected counts"),
        ("time", None, "expected counts"),
        (None, "0/2@localhost:1", "belongs to --mesh"),
        ("time=2", "2/2@localhost:1", "--host 2/2@localhost:1: expected this one's number"),
        ("time=2", "localhost:1", "such as 0/2@localhost:1234"),
        ("time=3", "0/2@localhost:1", "3 devices do not divide by 2 hosts"),
    ],
)
def test_what_is_no_mesh_or_no_host_is_refused(mesh, host, words, began):
    with pytest.raises(ValueError, match=words):
        asked(mesh, host)
    assert not began


def test_a_jax_that_has_begun_says_so():
    jax.devices()
    with pytest.raises(ValueError, match=r"--mesh time=2: .*before backends are initialized"):
        asked("time=2", None)


def test_backends_on_several_hosts_give_each_all_of_a_result():
    vae = SimpleNamespace(on=lambda mesh: SimpleNamespace(mesh=mesh))
    assert not Asked({"time": 1}).put(vae).gathered
    on = Asked({"time": 1}, hosts=2).put(vae)
    assert on.gathered
    assert result_sharding(on.mesh, (1, 2, 3), gathered=True).is_fully_replicated


def test_what_a_mesh_refuses_is_skipped_and_counted_on_a_mesh_alone():
    counted = {}

    def item(mesh):
        return SimpleNamespace(config=SimpleNamespace(stash={OPTIONS: SimpleNamespace(mesh=mesh), NOT_TAKEN: counted}),
                               path=SUITES / "frames" / "test_counts.py")  # fmt: skip

    with pytest.raises(pytest.skip.Exception, match="7 frames"), port_speaks(item(Asked({"time": 2}))):
        raise NotDealtError("7 frames")
    assert counted == {"frames": {": 7 frames": 1}}
    with pytest.raises(NotDealtError), port_speaks(item(None)):
        raise NotDealtError("7 frames")
