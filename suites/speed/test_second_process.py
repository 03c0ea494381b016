"""A second process starts faster: JAX's persistent compilation cache holds what the first has compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from suites.speed.bars import FIRST_DECODE, SECOND, SECOND_PROCESS, TIMES
from suites.speed.clock import replay, replay_clock
from suites.speed.measure import ratio_fields
from twinvae.bench.bars import hold
from twinvae.bench.places import ROOT
from twinvae.bench.timing import Timings, foreign_load, ratio

MOST_PAIRS = 3  # of a process with an empty cache and one with what it left; more than one while the limit is passed
EVERY_PROGRAM = {
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


@pytest.mark.benchmark(timer=replay_clock)
@pytest.mark.only(mode=("jit",), dtype=("float32",), large=False)
def test_a_second_process_decodes_sooner(model, backend, mode, dtype, record, benchmark, tmp_path):
    if "preset" not in model.source:
        pytest.skip("a preset's programs are as good as a checkpoint's")
    timings = Timings({"cold": [], "warm": []}, {"cold": [], "warm": []})
    for pair in range(MOST_PAIRS):
        for name in timings.seconds:
            with foreign_load() as load:
                seconds = _first_decode(backend, model.label, dtype, tmp_path / str(pair))
            timings.seconds[name].append(seconds)
            timings.foreign[name].append(load[0])
        found = ratio(timings, "warm", "cold", pair + 1)
        if found.value <= SECOND_PROCESS[SECOND].limit:
            break
    record(case="second process", operation="decode", metric=SECOND, **ratio_fields(found, SECOND_PROCESS[SECOND]))
    for name, case in (("cold", "first process"), ("warm", "second process")):
        seconds = {FIRST_DECODE: np.median(timings.seconds[name])}
        hold(record, TIMES, seconds, case, operation="decode", kind="absolute", runs=len(timings.seconds[name]))
    replay(benchmark, timings.seconds["warm"], "second process", backend=backend, values={"over cold": found.value})


def _first_decode(backend: str, preset: str, dtype: str, cache) -> float:
    environment = os.environ | EVERY_PROGRAM | {"JAX_COMPILATION_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", "suites.speed.first_decode", backend, preset, dtype]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"a process that decodes with {backend} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])["first decode"]
