"""The largest number that still fits, found with few compilations: bisection, with a guess where two peaks allow it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    def known(self) -> dict[int, int]:
        """The numbers of which the peak is known."""
        return {number: peak for number, peak in self.peaks.items() if peak is not None}

    @property
    def next_peak(self) -> int | None:
        """What the next larger number would need."""
        return self.peaks.get(self.value + 1)


def largest(
    peak_of: Callable[[int], int | None],
    budget: int,
    most: int,
    guess: int = 1,
    hints: Mapping[int, int] = {},
    before: int = 0,
) -> Found:
    """The largest number from 1 to `most` whose peak is within the budget; peaks grow with the number.

    Args:
        guess: where to begin.
        hints: numbers and what their peaks may be; good ones save questions, bad ones cost a few.
        before: the largest that fitted when it was last looked for: it and its neighbours are asked for first.
    """
    peaks: dict[int, int | None] = {}
    low, high, slow = 0, most + 1, 0
    while high - low > 1:
        known = Found(low, peaks).known
        line = _on_a_line(known if len(known) > 1 else {**hints, **known}, budget) if slow < 3 else None
        wanted = guess if line is None and not peaks else line
        nearby = (before, before + 1, before - 1) if before else ()
        again = next((number for number in nearby if low < number < high), None)
        probe = again or _between(low, high, wanted and min(max(wanted, 1), most))
        gap = high - low
        peaks[probe] = peak_of(probe)
        enclosed = low > 0 and high <= most
        fits = peaks[probe] is not None and peaks[probe] <= budget
        low, high = (probe, high) if fits else (low, probe)
        slow = slow + 1 if enclosed and high - low > gap / 2 else 0
    return Found(low, peaks)


def _on_a_line(known: Mapping[int, int], budget: int) -> float | None:
    """Where the budget is reached on the line through the two known peaks nearest to it, or through one and nothing."""
    nearest = sorted((abs(peak - budget), number, peak) for number, peak in known.items())[:2]
    if len(nearest) < 2:
        return next((number * budget / peak for _, number, peak in nearest), None)
    (_, one, at_one), (_, other, at_other) = nearest
    slope = (at_other - at_one) / (other - one)
    return one + (budget - at_one) / slope if slope > 0 else None


def _between(low: int, high: int, guess: float | None) -> int:
    """The guess, or the middle where there is none, or none that can be, as a number between the two."""
    if guess is None or not low <= guess < high:
        return (low + high) // 2
    return max(int(guess), low + 1)
