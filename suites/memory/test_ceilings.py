"""Peaks by a compiler's word, each under its ceiling, on a machine that has not its device."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from diffusers.models.autoencoders import autoencoder_kl_cogvideox as diffusers_layers

import twinvae
from suites.memory import cases
from suites.memory.bars import CEILINGS, CEILINGS_OF, LAYER_PEAK, PEAK, PEAKS, SHARE, SHARED_ROWS
from suites.memory.cases import GB, LAYERS
from suites.memory.lowered import told
from suites.memory.pieces import peak, pieces, weight_bytes
from twinvae.bench.aot.compilers import sharding_on
from twinvae.bench.bars import hold
from twinvae.jax.chips import CHIPS
from twinvae.jax.compiling import compiler_options, tracing_for

pytestmark = pytest.mark.needs("step")


@pytest.mark.cases("case, model, backend, dtype", cases.asked)
def test_a_clip_stays_under_its_ceiling(case, model, backend, dtype, programs, chip, options, record):
    found = pieces(case, model.config, dtype)
    answers = {piece: programs.ask(case.operation, piece) for piece in found}
    asked = f"{case.name}, {case.way}", case.operation, case.size, backend
    bar = CEILINGS.get(asked, PEAKS[PEAK]) if options.platform == CEILINGS_OF else PEAKS[PEAK]
    fields = {"case": asked[0], "operation": case.operation, "mode": "jit", "shape": case.size, "metric": PEAK}
    largest = told(answers.values(), chip, lambda: peak(found, lambda p: answers[p].program.peak_bytes) / GB)
    record(**fields, **bar.fields, **largest)


@pytest.mark.cases("case, model, backend, dtype", cases.sharded)
def test_chips_that_share_the_rows_share_the_activations(case, model, backend, dtype, programs, chip, record):
    (piece,) = pieces(case, model.config, dtype)
    answers = [programs.ask(case.operation, piece, devices) for devices in (1, cases.SHARED_BY)]
    weights = weight_bytes(model.config, case.operation, dtype)

    def share() -> float:
        alone, each = (answer.program.peak_bytes - weights for answer in answers)
        return each * cases.SHARED_BY / alone

    fields = {"case": f"{case.name}, rows on {cases.SHARED_BY} chips", "operation": case.operation, "mode": "jit",
              "shape": case.size}  # fmt: skip
    one = told(answers[1:], chip, lambda: answers[1].program.peak_bytes / GB)
    record(**fields, metric=PEAK, **SHARED_ROWS[PEAK].fields, **one)
    record(**fields, metric=SHARE, **SHARED_ROWS[SHARE].fields, **told(answers, chip, share))


@pytest.mark.cases("layer, backend, dtype", cases.layers)
def test_a_layer_takes_no_more_memory_than_it_did(layer, backend, dtype, compiler, chip, record):
    spec = LAYERS[layer]
    with torch.device("meta"):
        tensors = getattr(diffusers_layers, spec.layer)(**spec.init).state_dict()
    drawn = {name: np.zeros(tensor.shape, np.float32) for name, tensor in tensors.items()}
    built = twinvae.load_layer(backend, spec.layer, spec.init, drawn, dtype=dtype)
    given = {
        name: jax.ShapeDtypeStruct(shape, dtype, sharding=sharding_on(chip))
        for name, shape in (("x", spec.x), ("zq", spec.zq))
        if shape
    }
    kind = CHIPS[chip].kind
    with tracing_for(kind):
        lowered = jax.jit(lambda given: built(**given)[0], compiler_options=compiler_options(kind)).lower(given)
    answer = compiler.ask(f"{backend} {layer}", lowered, small=True)
    peaks = {LAYER_PEAK: answer.program.peak_bytes / 1e6}
    hold(record, PEAKS, peaks, f"{layer} alone", mode="jit", shape="x".join(map(str, spec.x)), note=str(answer))
