"""Contenders timed in turn, the rounds that other work disturbed set aside, and what the times left over say."""

from __future__ import annotations

import gc
import math
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import psutil

Run = Callable[[], Any]  # one call, over when its result is there

# Other work slows contenders unequally: with one of two cores taken, PyTorch's thread pool, which waits for its slowest
# thread, became 25 times slower and XLA's 1.1 times. No statistics repair such a ratio: a turn in which other processes
# had more than this share of the cores does not count. Undisturbed rounds read up to 0.04, as the kernel counts in
# ticks of 10 ms: turns of rounds shorter than TELLING seconds share what the whole round reads.
QUIET, TELLING = 0.06, 1.0
TURN_SECONDS = 0.1  # calls are repeated within a turn until it has lasted so long
ENOUGH = 3  # quiet rounds below which nothing can be said
HOPELESS = 5  # rounds without one quiet turn after which none is waited for
# What slows a machine from outside of it, such as another virtual one on the same host, is seen by no counter, lasts
# for seconds, and only ever adds. With 30 rounds, ratios of medians of unchanged code were 3 to 5 % apart from one
# stretch of time to the next, those of the fastest tenth 1.4 %.
FASTEST = 0.1
DRAWS, CONFIDENCE = 2000, 0.95


@dataclass
class Timings:
    """What was timed in turn.

    Attributes:
        seconds: of a turn's fastest call, per contender and round; NaN where a contender took no turn. What makes the
            others of the same turn slower is the machine, and hits contenders unequally.
        foreign: the share of the cores that other processes took meanwhile.
        failures: contenders that raised, and what; they take no further turns.
    """

    seconds: dict[str, list[float]]
    foreign: dict[str, list[float]]
    failures: dict[str, Exception] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        return max(map(len, self.seconds.values()), default=0)

    def quiet(self, *names: str) -> np.ndarray:
        """Indices of the rounds in which all of these contenders took their turns undisturbed."""
        foreign = np.array([self.foreign[name] for name in names])
        return np.flatnonzero((foreign <= QUIET).all(axis=0))  # a turn not taken is NaN, and not quiet

    def taken(self, *names: str) -> np.ndarray:
        """Indices of the rounds in which all of these contenders took their turns, disturbed or not."""
        return np.flatnonzero(np.isfinite([self.seconds[name] for name in names]).all(axis=0))


class Estimate(NamedTuple):
    """A value, the bounds of its confidence interval, and how many rounds it is from.

    Where too few rounds were quiet, the value is that of all rounds and the interval has no upper bound.
    """

    value: float
    low: float
    high: float
    runs: int
    note: str = ""

    @property
    def interval(self) -> tuple[float, float]:
        return self.low, self.high


def time_in_turn(
    contenders: Mapping[str, Run],
    rounds: int,
    *,
    slow: Mapping[str, int] | None = None,
    patience: float = math.inf,
) -> Timings:
    """Time contenders A B C A B C ..., until each has had its turns undisturbed, or it is no use.

    Args:
        contenders: warm ones.
        rounds: quiet rounds to take. The search for them is given up after twice as many rounds, or when the first
            ones have not a single quiet turn.
        slow: contenders that take fewer turns, and how many.
        patience: seconds after which no round beyond `rounds` is begun.
    """
    wanted = dict.fromkeys(contenders, rounds) | dict(slow or {})
    timings = Timings({name: [] for name in contenders}, {name: [] for name in contenders})
    began = time.perf_counter()
    for index in range(2 * rounds):
        racing = [name for name in contenders if name not in timings.failures]
        missing = [name for name in racing if len(timings.quiet(name)) < wanted[name] and index < 2 * wanted[name]]
        always = [name for name in racing if wanted[name] == rounds]
        if not racing or (not missing and len(timings.quiet(*always)) >= rounds):
            break
        late = index >= rounds and time.perf_counter() - began > patience
        if late or (index >= min(HOPELESS, rounds) and not any(len(timings.quiet(name)) for name in racing)):
            break
        turns = {}
        for name in racing:
            if name in always or name in missing:
                try:
                    turns[name] = _turn(contenders[name])
                except Exception as error:  # whatever a backend raises: the others go on
                    timings.failures[name] = error
        lasted = sum(turn.lasted for turn in turns.values())
        for name in contenders:
            turn = turns.get(name, _NO_TURN)
            foreign = turn.foreign
            if name in turns and lasted < TELLING:
                foreign = sum(turn.foreign * turn.lasted for turn in turns.values()) / lasted
            timings.seconds[name].append(turn.seconds)
            timings.foreign[name].append(foreign)
    return timings


class _Turn(NamedTuple):
    """Seconds of the fastest call, and of the turn; and the share of the cores that other processes took in it."""

    seconds: float
    lasted: float
    foreign: float


_NO_TURN = _Turn(math.nan, 0.0, math.nan)


def _turn(run: Run) -> _Turn:
    with _no_garbage_collection(), foreign_load() as load:
        calls: list[float] = []
        while sum(calls) < TURN_SECONDS:
            start = time.perf_counter()
            run()
            calls.append(time.perf_counter() - start)
    return _Turn(min(calls), sum(calls), load[0])


@contextmanager
def foreign_load() -> Iterator[list[float]]:
    """A list that holds, when the block is over, the share of this process's cores that other processes took in it.

    It is a little below 0 where the kernel, which counts in ticks, counted less than this process's own time. What
    this process and its children take does not count. Linux also tells what other virtual machines on the same host
    took ("steal").
    """
    found: list[float] = []
    start, own, busy = time.perf_counter(), _own_seconds(), _busy_seconds()
    yield found
    spent, own, busy = time.perf_counter() - start, _own_seconds() - own, _busy_seconds() - busy
    found.append((busy - own) / (spent * len(_cores())))


def _cores() -> list[int]:
    process = psutil.Process()
    return process.cpu_affinity() if hasattr(process, "cpu_affinity") else list(range(os.cpu_count() or 1))


def _busy_seconds() -> float:
    """Processor time that all processes have had on the cores that this one may use."""
    idle = ("idle", "iowait", "guest", "guest_nice")  # guests' time is in user's as well
    each = psutil.cpu_times(percpu=True)
    return sum(sum(seconds for name, seconds in each[core]._asdict().items() if name not in idle) for core in _cores())


def _own_seconds() -> float:
    """Processor time of this process and of its children, those that have ended too."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.process_time() + ended.ru_utime + ended.ru_stime
    for child in psutil.Process().children(recursive=True):
        try:
            seconds += sum(child.cpu_times()[:2])
        except psutil.Error:  # it has just ended
            continue
    return seconds


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


# What times say


def median(timings: Timings, name: str, wanted: int = ENOUGH) -> Estimate:
    """Seconds of a contender's call: the median of its quiet turns.

    Args:
        wanted: quiet rounds to be sure, at least.
    """
    seconds = np.array(timings.seconds[name])
    return _estimate(timings, (name,), lambda rounds: np.median(seconds[rounds], axis=-1), wanted)


def ratio(timings: Timings, name: str, other: str, wanted: int = ENOUGH, share: float = 0.5) -> Estimate:
    """How many times as long a contender's call takes as another's, over the same rounds.

    Args:
        share: of which of their times: the medians, or with FASTEST those that a tenth of the rounds was as fast as.
    """
    above, below = np.array(timings.seconds[name]), np.array(timings.seconds[other])

    def of_rounds(rounds: np.ndarray) -> np.ndarray:
        return np.quantile(above[rounds], share, axis=-1) / np.quantile(below[rounds], share, axis=-1)

    return _estimate(timings, (name, other), of_rounds, wanted)


def _estimate(
    timings: Timings, names: Sequence[str], of_rounds: Callable[[np.ndarray], np.ndarray], wanted: int
) -> Estimate:
    quiet, taken = timings.quiet(*names), timings.taken(*names)
    if not len(taken):
        return Estimate(math.nan, 0.0, math.inf, 0, "no round was taken")
    if len(quiet) < wanted:
        share = np.median(np.max([timings.foreign[name] for name in names], axis=0)[taken])
        note = (
            f"other work took {100 * share:.0f} % of the cores, and only {len(quiet)} of {len(taken)} rounds were "
            "quiet: close it and run again"
        )
        return Estimate(float(of_rounds(taken)), 0.0, math.inf, len(taken), note)
    low, high = bootstrapped(of_rounds, quiet)
    aside = len(taken) - len(quiet)
    note = f"{aside} of {len(taken)} rounds set aside: other work had the cores" if aside else ""
    return Estimate(float(of_rounds(quiet)), low, high, len(quiet), note)


def bootstrapped(of_rounds: Callable[[np.ndarray], np.ndarray], rounds: np.ndarray) -> tuple[float, float]:
    """The interval that holds CONFIDENCE of the values of as many rounds, drawn again from these.

    Args:
        of_rounds: values from indices of rounds [..., n]; whole rounds are drawn, so that what was timed in turn
            stays together.
    """
    drawn = np.random.default_rng(0).choice(rounds, (DRAWS, len(rounds)))
    low, high = np.quantile(of_rounds(drawn), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
