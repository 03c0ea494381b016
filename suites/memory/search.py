"""The largest number that still fits, found with few compilations: bisection, with a guess where two peaks allow it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Found(NamedTuple):
    """The end of a search.

    Attributes:
        value: the largest number that fits; 0 where not even 1 does.
        peaks: every number that was asked for, in order, and its peak; None where it does not fit and the compiler
            does not say what it needs.
    """

    value: int
    peaks: dict[int, int | None]

    @property
    def next_peak(self) -> int | None:
        """What the next larger number would need."""
        return self.peaks.get(self.value + 1)


def largest(peak_of: Callable[[int], int | None], budget: int, most: int, guess: int = 1) -> Found:
    """The largest number from 1 to `most` whose peak is within the budget; peaks grow with the number.

    Args:
        guess: where to begin.
    """
    peaks: dict[int, int | None] = {}
    low, high, slow = 0, most + 1, 0
    while high - low > 1:
        probe = _between(low, high, _guess(peaks, budget, most) if slow < 4 else None) if peaks else min(guess, most)
        before = high - low
        peaks[probe] = peak_of(probe)
        fits = peaks[probe] is not None and peaks[probe] <= budget
        low, high = (probe, high) if fits else (low, probe)
        slow = slow + 1 if high - low > before / 2 else 0
    return Found(low, peaks)


def _guess(peaks: dict[int, int | None], budget: int, most: int) -> float | None:
    """Where the budget is reached on the line through the two known peaks nearest to it, or through one and nothing."""
    known = sorted(((abs(peak - budget), number, peak) for number, peak in peaks.items() if peak is not None))[:2]
    if len(known) < 2:
        return next((min(number * budget / peak, most) for _, number, peak in known), None)
    (_, one, at_one), (_, other, at_other) = known
    slope = (at_other - at_one) / (other - one)
    return min(one + (budget - at_one) / slope, most) if slope > 0 else None


def _between(low: int, high: int, guess: float | None) -> int:
    """The guess, or the middle where there is none, or none that can be, as a number between the two."""
    if guess is None or not low <= guess < high:
        return (low + high) // 2
    return max(int(guess), low + 1)
