"""Compiled programs are dropped before Linux has no mappings left for them, and compute the same again."""

import contextlib
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import twinvae
from twinvae.bench.xla_cost import compiled, stages
from twinvae.jax import mappings


@pytest.fixture
def few(monkeypatch, tmp_path):
    """As many mappings as a process may have that has just started."""
    limit = tmp_path / "max_map_count"
    limit.write_text("1000")
    monkeypatch.setattr(mappings, "LIMIT", limit)
    return limit


def compile_programs(count: int) -> None:
    for index in range(count):
        jax.jit(lambda x, index=index: x + index)(jnp.ones(2)).block_until_ready()


def test_programs_are_dropped_when_they_hold_half_of_the_mappings(few):
    compile_programs(mappings.EVERY)
    with pytest.warns(UserWarning, match=r"hold [\d,]+ of the 1,000 memory mappings .* raise vm.max_map_count"):
        assert mappings.make_room()
    assert not mappings.make_room()  # nothing was compiled since


@pytest.mark.parametrize(("limit", "programs"), [("100000000", mappings.EVERY), ("1000", 1), (None, mappings.EVERY)])
def test_programs_stay_where_there_is_room_or_few_were_compiled_or_there_is_no_such_limit(
    few, monkeypatch, limit, programs
):
    monkeypatch.setattr(mappings, "_since", 0)
    few.unlink() if limit is None else few.write_text(limit)
    compile_programs(programs)
    assert not mappings.make_room()


def test_mappings_are_counted_once_for_so_many_programs_however_many_calls_there_are(few, monkeypatch):
    few.write_text("100000000")
    read = []
    monkeypatch.setattr(mappings, "MAPPED", SimpleNamespace(read_bytes=lambda: read.append(True) or b""))
    monkeypatch.setattr(mappings, "_since", 0)
    for looks in (1, 2):
        compile_programs(mappings.EVERY)
        assert [mappings.make_room() for _ in range(5)] == [False] * 5
        assert len(read) == looks


def test_whoever_wants_more_room_asks_for_it_sooner(few, monkeypatch):
    monkeypatch.setattr(mappings, "MAPPED", SimpleNamespace(read_bytes=lambda: b"\n" * 400))
    for share, dropped in ((mappings.SHARE, False), (mappings.SHARE / 2, True)):
        monkeypatch.setattr(mappings, "_since", mappings.EVERY)
        with pytest.warns(UserWarning, match="hold 400 of") if dropped else contextlib.nullcontext():
            assert mappings.make_room(share) is dropped


@pytest.mark.filterwarnings("ignore:compiled programs hold")
def test_a_call_makes_room_first_and_gives_the_same_again(few):
    vae = twinvae.load("flax")
    latents = np.zeros((1, 1, 1, 2, vae.config.latent_channels), np.float32)
    before = np.asarray(vae.decode(latents))
    compile_programs(mappings.EVERY)
    with stages() as found:
        after = np.asarray(vae.decode(latents))
    assert compiled(found), "nothing was dropped"
    np.testing.assert_array_equal(before, after)
