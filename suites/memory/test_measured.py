"""Peaks measured on this machine's own device, beside its compiler's word, each in a process of its own."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile

import jax
import pytest

import twinvae
from suites.memory import cases
from suites.memory.bars import COMPILERS_PEAK, FRAME_BATCH, MEASURED, OFF, OWN_PROCESS, PREDICTED, PREDICTION
from suites.memory.pieces import input_shape
from suites.memory.resident import ENVIRONMENT
from twinvae.bench.aot.tpu_compiler import compiled
from twinvae.bench.bars import hold
from twinvae.bench.places import ROOT
from twinvae.forms import ROW_SLABS, WHOLE
from twinvae.registry import REFERENCE

GB = 1e9


@pytest.mark.cases("clip_size, model, backend, dtype", cases.measured)
def test_a_clip_takes_what_its_compiler_says_and_no_more_than_it_did(clip_size, model, backend, dtype, record):
    if "preset" not in model.source:
        pytest.skip("a preset's programs are as good as a checkpoint's")
    if backend == REFERENCE and jax.default_backend() != "cpu":
        pytest.skip("PyTorch is measured on CPUs")
    case = cases.Case("whole clip", *clip_size)
    found = in_a_process_of_its_own(backend, model.label, dtype, case.operation, input_shape(case, model.config))
    fields = {"case": "whole clip", "operation": case.operation, "mode": "eager" if backend == REFERENCE else "jit",
              "shape": case.size}  # fmt: skip
    hold(record, OWN_PROCESS, {MEASURED: found["above idle"] / GB}, **fields, kind="absolute")
    if backend == REFERENCE:
        return
    note = f"compiled in {found['compiling']:.0f} s"
    hold(record, OWN_PROCESS, {COMPILERS_PEAK: found["peak"] / GB}, **fields, of_compiler=True, note=note)
    predicted = found["predicted above idle"]
    note = "without the weights and the clip, which the idle process holds"
    hold(record, OWN_PROCESS, {PREDICTED: predicted / GB}, **fields, note=note)
    hold(record, PREDICTION, {OFF: off(predicted, found["above idle"])}, **fields, kind="absolute")


@pytest.mark.needs("step")
@pytest.mark.cases("operation, model, backend, dtype", cases.steps)
def test_a_leaner_form_takes_no_more_than_it_did(operation, model, backend, dtype, record):
    vae = twinvae.load(backend, **model.source, dtype=dtype)
    vae.slab_bytes = cases.STEP_SLAB
    channels = model.config.in_channels if operation == "encode" else model.config.latent_channels
    shape = (*cases.STEPS[operation], channels)
    if ROW_SLABS not in vae.forms:
        pytest.skip("this backend has one form alone, whose peak the test above holds")
    for form in (WHOLE, ROW_SLABS):
        peak = compiled(vae.lower_step(operation, shape, first=False, form=form)).peak_bytes
        hold(record, OWN_PROCESS, {FRAME_BATCH: peak / 1e6}, f"frame batch, {form}", operation=operation, mode="jit",
             shape="x".join(map(str, shape)), of_compiler=True)  # fmt: skip


def off(predicted: float, measured: float) -> float:
    """How far the larger is above the smaller, as a share of it; infinite where one is no size."""
    smaller, larger = sorted((predicted, measured))
    return larger / smaller - 1 if smaller > 0 else math.inf


def in_a_process_of_its_own(backend: str, preset: str, dtype: str, operation: str, shape: tuple[int, ...]) -> dict:
    """What `suites.memory.resident` measures there; a process has one peak, and what ran before must not set it.

    On an accelerator, compiling sets it too, where kernels are tried for the fastest: one process compiles, and
    another, which finds the program in JAX's cache, is measured. What the compiler says is the first one's: of a
    program from the cache, not all compilers know the peak.
    """
    command = [sys.executable, "-m", "suites.memory.resident", backend, preset, dtype, operation, json.dumps(shape)]
    if jax.default_backend() == "cpu":
        return printed_by(command, ENVIRONMENT)
    with tempfile.TemporaryDirectory() as folder:
        cache = {"JAX_COMPILATION_CACHE_DIR": folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        said = printed_by([*command, "--compile"], cache)
        return printed_by(command, cache) | said


def printed_by(command: list[str], environment: dict[str, str]) -> dict:
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(command[1:])} ended with {done.returncode}: {done.stderr[-2000:]}", pytrace=False)
    return json.loads(done.stdout.splitlines()[-1])
