"""A peak that is measured is that of running a program, and not of what went before."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace

import jax
import pytest

from suites.memory import test_measured
from twinvae.bench import resident

CACHE = "JAX_COMPILATION_CACHE_DIR"
CLIP = ("flax", "tiny", "float32", "decode", (1, 2, 4, 4, 4))


@pytest.fixture
def processes(monkeypatch):
    """The caches that processes were given; one which finds its program there does not know the compiler's peak."""
    caches = []

    def run(command, env, **options):
        cache = env.get(CACHE)
        first = cache is None or not any(Path(cache).iterdir())
        if cache:
            (Path(cache) / "program").touch()
        caches.append(cache)
        found = {"compiling": 10, "peak": 300} if first else {"compiling": 1, "peak": 0}
        if "--compile" not in command:
            found["above idle"] = 200 if first else 100
        return CompletedProcess(command, 0, f"something else\n{json.dumps(found)}\n", "")

    monkeypatch.delenv(CACHE, raising=False)
    monkeypatch.setattr(test_measured.subprocess, "run", run)
    return caches


def test_on_an_accelerator_one_process_compiles_and_another_finds_the_program_and_is_measured(processes, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert test_measured.in_a_process_of_its_own(*CLIP) == {"compiling": 10, "peak": 300, "above idle": 100}
    assert processes == [processes[0]] * 2
    assert not Path(processes[0]).exists()


def test_on_a_cpu_one_process_compiles_and_is_measured(processes):
    assert test_measured.in_a_process_of_its_own(*CLIP) == {"compiling": 10, "peak": 300, "above idle": 200}
    assert processes == [None]


def test_a_process_that_fails_is_shown_with_what_it_said(monkeypatch):
    monkeypatch.setattr(
        test_measured.subprocess, "run", lambda command, **options: CompletedProcess(command, 1, "", "no such device")
    )
    with pytest.raises(pytest.fail.Exception, match=r"suites.memory.resident flax tiny .* 1: no such device"):
        test_measured.in_a_process_of_its_own(*CLIP)


class Allocator:
    """A device on which loading a model took 500 bytes at the most, and holds 200 of them."""

    def __init__(self):
        self.held, self.peak = 200, 500

    def memory_stats(self):
        return {"bytes_in_use": self.held, "peak_bytes_in_use": self.peak}

    def take(self, size):
        self.held += size
        self.peak = max(self.peak, self.held)


@pytest.mark.parametrize("size", [0, 50, 1000])
def test_an_allocator_s_mark_of_loading_is_not_taken_for_the_program_s(size, monkeypatch):
    device = Allocator()

    def zeros_on(where, size):
        where.take(size)
        return SimpleNamespace(delete=lambda: where.take(-size))

    monkeypatch.setattr(resident, "zeros_on", zeros_on)
    with resident.allocated(device) as found:
        device.take(size)
        device.take(-size)
    assert found == {"idle": 200, "above idle": size}
    assert device.held == 200


def test_what_a_block_takes_is_unknown_without_room_for_the_ballast_and_no_other_error_is_kept_quiet(monkeypatch):
    device, says = SimpleNamespace(memory_stats=lambda: {"bytes_in_use": 1, "peak_bytes_in_use": 9}), []

    def zeros_on(where, size):
        raise jax.errors.JaxRuntimeError(says[0])

    monkeypatch.setattr(resident, "zeros_on", zeros_on)
    says[:] = ["RESOURCE_EXHAUSTED: out of memory trying to allocate 24.30GiB"]
    with resident.allocated(device) as found:
        pass
    assert found == {"idle": 1}
    says[:] = ["INTERNAL: the card fell off"]
    with pytest.raises(jax.errors.JaxRuntimeError, match="fell off"), resident.allocated(device):
        pass


@pytest.mark.parametrize(("predicted", "measured", "expected"), [(2, 3, 0.5), (3, 2, 0.5), (2, 2, 0)])
def test_a_prediction_is_off_by_as_much_either_way(predicted, measured, expected):
    assert test_measured.off(predicted, measured) == expected


@pytest.mark.parametrize(("predicted", "measured"), [(0, 2), (-1, 2), (2, 0)])
def test_a_prediction_that_is_no_size_is_off_without_bound(predicted, measured):
    assert test_measured.off(predicted, measured) == float("inf")
