"""Programs of NVIDIA's cards by their compiler's word: what each needs, what it consists of, and how fast it can be."""

from __future__ import annotations

import pytest

from suites.memory import bars, cases
from suites.memory.cases import GB
from suites.memory.lowered import told
from suites.memory.pieces import pieces
from suites.memory.roofline import MEASURED_CALLS, roofline
from twinvae.bench.aot import hlo
from twinvae.bench.aot.compilers import sharding_on
from twinvae.forms import WHOLE

pytestmark = pytest.mark.needs("step")


@pytest.mark.cases("case, model, backend, dtype", cases.asked_of_cards)
def test_a_program_of_a_card_is_no_more_than_it_was(case, model, backend, dtype, programs, chip, record):
    (piece,) = pieces(case, model.config, dtype)
    answer = programs.ask(case.operation, piece)
    fields = {"case": f"{case.name}, {case.form}", "operation": case.operation, "mode": "jit", "shape": case.size}
    hold_program(record, answer, chip, backend, dtype, **fields)


@pytest.mark.cases("operation, model, backend, dtype", cases.small_steps)
def test_a_small_program_is_no_more_than_it_was(operation, model, backend, dtype, load, compiler, chip, record):
    vae = load(backend, model, "jit", dtype)
    channels = model.config.in_channels if operation == "encode" else model.config.latent_channels
    shape = (*cases.CARD_STEPS[operation], channels)
    lowered = vae.lower_step(operation, shape, sharding_on(chip), form=WHOLE)
    answer = compiler.ask(f"{backend} {operation}", lowered, small=True)
    fields = {"case": "a later frame batch", "operation": operation, "mode": "jit", "shape": "x".join(map(str, shape))}
    hold_program(record, answer, chip, backend, dtype, **fields)


def hold_program(record, answer, chip, backend, dtype, **fields):
    """Every record of a program; of one that needs compiling, those that it will have."""
    program, measured = answer.program, MEASURED_CALLS.get((chip, backend, fields["operation"], fields["shape"]))
    values = {
        bars.PEAK: lambda: program.peak_bytes / GB,
        bars.TEMPORARIES: lambda: program.temp_bytes / GB,
        bars.FLOPS: lambda: program.flops / 1e12,
        bars.BYTES: lambda: program.bytes_accessed / GB,
        bars.ARITHMETIC: lambda: 1000 * roofline(program, chip, dtype).arithmetic,
        bars.TRAFFIC: lambda: 1000 * roofline(program, chip, dtype).traffic,
        **{name: lambda name=name: program.counts[name] for name in hlo.COUNTS},
    }
    if measured:
        values[bars.TIME_SHARE] = lambda: roofline(program, chip, dtype).seconds / measured.seconds
        values[bars.MEMORY_SHARE] = lambda: (program.peak_bytes - program.argument_bytes) / GB / measured.memory
    for metric, value in values.items():
        record(**fields, metric=metric, **bars.OF_CARDS[metric].fields, **told([answer], chip, value))
