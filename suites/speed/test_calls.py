"""How long calls take: the first, taken apart, and warm ones, every backend and PyTorch in turn."""

from __future__ import annotations

import pytest

from suites.speed.cases import timed
from suites.speed.clock import replay_clock
from suites.speed.measure import first_call_values, steady_values

pytestmark = [
    pytest.mark.benchmark(timer=replay_clock),
    pytest.mark.cases("group, model, dtype, backend, mode", timed),
]


def test_a_warm_call_has_not_become_slower(measured, contender, keep):
    keep("warm call", steady_values(measured, contender), measured.timings.seconds.get(str(contender), []))


def test_the_first_call_has_not_become_slower(measured, contender, keep):
    values, seconds = first_call_values(measured, contender)
    keep("first call", values, seconds)
