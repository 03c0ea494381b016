"""Decoding on meshes by a compiler: does it fit, what is sent, and does it compile as fast as one device's program?

They are large: `pytest suites/scaling --aot v6e` compiles what has changed, in some minutes each, and keeps the answers
in `baselines/<platform>/scaling.jsonl`.
"""

from __future__ import annotations

import pytest

from suites.scaling import cases
from suites.scaling.bars import (
    ALL_ROUNDS,
    COMPILED,
    COMPILING,
    OTHERS,
    OVER_HALOS,
    PEAK,
    PEAKS,
    PROGRAM,
    SENT,
)
from suites.scaling.programs import BYTES, halo_bytes

GB = 1e9
EXPECTED = ("collective-permute", "all-reduce")


def halved(options):
    """Chips of which all that 5 in time run is asked for."""
    return [row | {"case": cases.HALVED[0]} for row in cases.asked(options) if row["case"] == cases.HALVED[0]]


def compared(options):
    """A mesh of a chip of which one device's program is asked for, too."""
    rows = cases.asked(options)
    alone = any(row["case"] == cases.ALONE for row in rows)
    return [row for row in rows if alone and row["case"] == cases.COMPARED]


@pytest.mark.cases("case, backend, dtype", cases.asked)
def test_a_device_takes_and_is_sent_no_more_than_it_did(case, backend, dtype, programs, chip, told, record):
    answer = programs.ask(case)
    counts = answer.program.counts if answer.program else {}
    fields = {"case": str(case), "operation": "decode", "mode": "jit"}
    bars = PROGRAM | (PEAKS.get(str(case), {}) if chip == "v6e" else {})
    values = {
        PEAK: lambda: answer.program.peak_bytes / GB,
        SENT: lambda: sum(sent for kind, sent in counts.items() if kind.endswith(BYTES)) / 1e6,
        OTHERS: lambda: sum(count for kind, count in counts.items() if not kind.startswith(EXPECTED)),
    }
    for metric, value in values.items():
        record(**fields, metric=metric, **bars[metric].fields, **told([answer], value))


@pytest.mark.cases("case, backend, dtype", halved)
def test_devices_in_time_are_sent_their_halos_and_nothing_else(case, backend, dtype, programs, told, record):
    answers = [programs.ask(case) for case in cases.HALVED]
    received = told(answers, lambda: sum(one.program.counts["collective-permute" + BYTES] for one in answers)
                    / len(answers) / halo_bytes())  # fmt: skip
    record(
        case=str(case), operation="decode", mode="jit", metric=OVER_HALOS, **ALL_ROUNDS[OVER_HALOS].fields, **received
    )


@pytest.mark.cases("case, backend, dtype", compared)
def test_a_mesh_takes_no_longer_to_compile(case, backend, dtype, programs, told, record):
    answers = [programs.ask(case) for case in (case, cases.ALONE)]
    ratio = told(answers, lambda: answers[0].program.seconds / answers[1].program.seconds)
    record(case=str(case), operation="decode", mode="jit", metric=COMPILING, **COMPILED[COMPILING].fields, **ratio)
