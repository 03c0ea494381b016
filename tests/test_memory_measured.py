"""A peak that is measured is that of running a program, and not of what went before."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess

import jax
import pytest

from suites.memory import test_measured

CACHE = "JAX_COMPILATION_CACHE_DIR"
CLIP = ("flax", "tiny", "float32", "decode", (1, 2, 4, 4, 4))


@pytest.fixture
def processes(monkeypatch):
    """The caches that processes were given: the first is slow to compile, which its peak shows."""
    caches = []

    def run(command, env, **options):
        caches.append(env.get(CACHE))
        assert CACHE not in env or Path(env[CACHE]).is_dir()
        found = [{"compiling": 10, "above idle": 100}, {"compiling": 1, "above idle": 50}][len(caches) - 1]
        return CompletedProcess(command, 0, f"something else\n{json.dumps(found)}\n", "")

    monkeypatch.delenv(CACHE, raising=False)
    monkeypatch.setattr(test_measured.subprocess, "run", run)
    return caches


def test_on_an_accelerator_the_process_that_is_measured_finds_its_program_compiled(processes, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = test_measured.in_a_process_of_its_own(*CLIP)
    assert found == {"compiling": 10, "above idle": 50}  # what it took to compile, and what it took to run
    assert processes == [processes[0]] * 2
    assert not Path(processes[0]).exists()


def test_on_a_cpu_one_process_compiles_and_is_measured(processes):
    assert test_measured.in_a_process_of_its_own(*CLIP) == {"compiling": 10, "above idle": 100}
    assert processes == [None]


def test_a_process_that_fails_is_shown_with_what_it_said(monkeypatch):
    monkeypatch.setattr(
        test_measured.subprocess, "run", lambda command, **options: CompletedProcess(command, 1, "", "no such device")
    )
    with pytest.raises(pytest.fail.Exception, match=r"suites.memory.resident flax tiny .* 1: no such device"):
        test_measured.in_a_process_of_its_own(*CLIP)
