"""The one time that is held against its baseline, measured in the way that `trials.gate` puts on trial."""

from __future__ import annotations

import pytest

from suites.speed.cases import Contender
from suites.speed.clock import replay, replay_clock
from suites.speed.gated import GATED_VALUE, GROUP, gated_records, middle_of_processes
from twinvae.registry import REFERENCE

FIELDS = {"metric", "value", "unit", "kind", "better", "interval", "tolerance", "runs", "note"}

pytestmark = pytest.mark.benchmark(timer=replay_clock)


@pytest.mark.only(mode=("jit",), dtype=("float32",), large=False)
def test_decoding_has_not_become_slower(model, backend, mode, dtype, options, once, record, benchmark):
    group = GROUP._replace(model=model)
    contenders = [Contender(name, mode) for name in options.backends if name != REFERENCE]

    def measured() -> dict[str, dict]:
        found = middle_of_processes(lambda process: process.submit(gated_records, contenders, group).result())
        return {one.backend: values.model_dump(include=FIELDS) for one, values in zip(contenders, found, strict=True)}

    record(**GATED_VALUE, shape=str(group.size), **once(f"gate of {model.label}", measured)[backend])
    replay(benchmark, [0.0], GATED_VALUE["case"])
