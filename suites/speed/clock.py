"""pytest-benchmark told of times that were measured in turn, so that its options, files and tables work on them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

_READINGS: deque[float] = deque()


def replay_clock() -> float:
    """A timer for pytest-benchmark: between two readings passes what `replay` was given."""
    return _READINGS.popleft()


def replay(benchmark: Any, seconds: Sequence[float], group: str = "", **extra: Any) -> None:
    """Hand measured durations to pytest-benchmark, one per round.

    Args:
        benchmark: the fixture, of a test marked with `timer=replay_clock`.
        extra: goes into its files, as "extra_info".
    """
    _READINGS.clear()
    _READINGS.extend(reading for duration in seconds for reading in (0.0, duration))
    benchmark.group = group or None
    benchmark.params = {name: str(value) for name, value in (benchmark.params or {}).items()}
    benchmark.extra_info.update(suite="twinvae speed", **extra)
    benchmark.pedantic(_measured_already, rounds=len(seconds))


def _measured_already() -> None:
    """What is called in place of what was measured."""
