"""Timing in turn: whose turn it is, which rounds count, and what is said of the times that are left."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from scipy import stats

from suites.speed.bars import GATE, GATED
from suites.speed.measure import ratio_fields
from twinvae.bench import timing
from twinvae.bench.baselines import Entry
from twinvae.bench.records import Record
from twinvae.bench.timing import FASTEST, QUIET, Timings, median, ratio, time_in_turn
from twinvae.bench.verdicts import judge


@pytest.fixture(autouse=True)
def _short_turns(monkeypatch):
    monkeypatch.setattr(timing, "TURN_SECONDS", 1e-9)
    monkeypatch.setattr(timing, "TELLING", 0.0)


@pytest.fixture
def busy(monkeypatch) -> list[float]:
    """The shares of the cores that others take, turn by turn; none at the end."""
    shares: list[float] = []

    @contextmanager
    def scripted() -> Iterator[list[float]]:
        found: list[float] = []
        yield found
        found.append(shares.pop(0) if shares else 0.0)

    monkeypatch.setattr(timing, "foreign_load", scripted)
    return shares


def test_contenders_take_turns(busy):
    turns = []
    timings = time_in_turn({name: lambda name=name: turns.append(name) for name in "abc"}, 3)
    assert "".join(turns) == "abcabcabc"
    assert timings.rounds == 3


def test_a_disturbed_round_is_made_up_for(busy):
    busy += [0.0, 0.0, 0.5, 0.0, 0.0, 0.3]
    timings = time_in_turn({"a": int, "b": int}, 4)
    assert timings.rounds == 6
    assert timings.quiet("a", "b").tolist() == [0, 3, 4, 5]
    assert timings.quiet("b").tolist() == [0, 1, 3, 4, 5]


def test_turns_of_a_short_round_share_what_it_reads(busy, monkeypatch):
    monkeypatch.setattr(timing, "TELLING", 1.0)
    busy += [0.1, 0.0, 0.3, 0.1, 0.0, 0.1]
    monkeypatch.setattr(timing, "_turn", lambda run: timing._Turn(0.1, 0.1, busy.pop(0) if busy else 0.0))
    timings = time_in_turn({"a": int, "b": int}, 3)
    assert timings.foreign["a"] == timings.foreign["b"] == pytest.approx([0.05, 0.2, 0.05, 0.0])
    assert timings.quiet("a", "b").tolist() == [0, 2, 3]


def test_no_round_is_quiet_on_a_busy_machine_and_the_search_ends(busy):
    busy += [0.9] * 100
    assert time_in_turn({"a": int}, 10).rounds == 5


def test_the_search_for_quiet_rounds_ends_when_patience_does(busy):
    busy += [0.0, 0.9, 0.9, 0.9] * 10
    assert time_in_turn({"a": int}, 8, patience=0.0).rounds == 8
    assert time_in_turn({"a": int}, 8).rounds == 16


def test_a_slow_contender_takes_the_turns_that_it_needs(busy):
    busy += [0.0, 0.0, 0.0, 0.7]
    timings = time_in_turn({"a": int, "slow": int}, 5, slow={"slow": 2})
    assert len(timings.taken("a")) == 5
    assert timings.taken("slow").tolist() == [0, 1, 2]
    assert timings.quiet("slow").tolist() == [0, 2]


def test_a_contender_that_fails_leaves_and_the_others_go_on(busy):
    calls = iter([0.0, 0.0])
    timings = time_in_turn({"a": int, "failing": lambda: next(calls), "b": int}, 4)
    assert isinstance(timings.failures["failing"], StopIteration)
    assert [len(timings.taken(name)) for name in ("a", "failing", "b")] == [4, 2, 4]


def test_short_calls_are_repeated_and_the_fastest_counts(busy, monkeypatch):
    monkeypatch.setattr(timing, "TURN_SECONDS", 0.02)
    calls = iter(range(10**6))
    timings = time_in_turn({"a": lambda: next(calls) % 2 or time.sleep(0.004)}, 3)
    assert next(calls) > 12
    assert max(timings.seconds["a"]) < 0.002


@pytest.mark.parametrize(("cores", "share"), [([0, 1], 0.5), ([1], 1.0), (range(4), 0.25)])
def test_foreign_load_is_what_others_take_of_the_cores_that_one_may_use(cores, share, monkeypatch):
    own, everyone, clock = iter([1.0, 1.5]), iter([10.0, 11.5]), iter([100.0, 101.0])
    monkeypatch.setattr(timing, "_own_seconds", lambda: next(own))
    monkeypatch.setattr(timing, "_busy_seconds", lambda: next(everyone))
    monkeypatch.setattr(timing, "_cores", lambda: cores)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    with timing.foreign_load() as load:
        pass
    assert load == [pytest.approx(share)]


@pytest.mark.parametrize(("kind", "busy"), [
    ("user", 1), ("nice", 1), ("system", 1), ("irq", 1), ("softirq", 1), ("steal", 1),
    ("idle", 0), ("iowait", 0), ("guest", 0), ("guest_nice", 0),
])  # fmt: skip
def test_time_that_a_core_was_not_to_be_had_counts_as_busy_and_no_other(kind, busy, monkeypatch):
    times = namedtuple("times", "user nice system idle iowait irq softirq steal guest guest_nice")
    none = times(*[0.0] * 10)
    monkeypatch.setattr(timing, "_cores", lambda: [1])
    cores = [none._replace(user=9.0), none._replace(**{kind: 2.0})]
    monkeypatch.setattr(timing.psutil, "cpu_times", lambda percpu: cores)
    assert timing._busy_seconds() == 2.0 * busy


def test_what_a_child_takes_is_not_foreign():
    before = timing._own_seconds()
    program = "import time\nwhile time.process_time() < 0.4: pass\nprint()\ninput()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert timing._own_seconds() - before >= 0.35
        child.communicate(b"\n")
    assert timing._own_seconds() - before >= 0.35


def rounds_of(a, b, foreign=0.0) -> Timings:
    shares = np.broadcast_to(foreign, len(a)).tolist()
    return Timings({"a": list(a), "b": list(b)}, {"a": shares, "b": [0.0] * len(b)})


def test_a_ratio_is_of_medians_over_the_quiet_rounds():
    rounds = rounds_of([4.0, 2.0, 9.0, 3.0, 3.0], [1.0, 2.0, 3.0, 2.0, 2.0])
    assert ratio(rounds, "a", "b", share=0.0).value == 2.0
    found = ratio(rounds_of([1, 2, 90, 3], [2, 2, 1, 2], [0, 0, 0.5, QUIET]), "a", "b")
    assert (found.value, found.runs) == (1.0, 3)
    assert found.low <= 1 <= found.high
    assert "1 of 4 rounds set aside" in found.note


def test_rounds_that_a_contender_sat_out_do_not_count():
    timings = Timings({"a": [1.0, math.nan, 3.0]}, {"a": [0.0, math.nan, 0.0]})
    assert median(timings, "a", 2).value == 2.0


def test_too_few_quiet_rounds_say_nothing_sure_and_what_to_do():
    found = ratio(rounds_of([1, 2, 3, 4], [2, 2, 2, 2], [0.5, 0.5, 0.5, 0]), "a", "b")
    assert found.interval == (0.0, math.inf)
    assert (found.value, found.runs) == (1.25, 4)
    assert found.note == (
        "other work took 50 % of the cores, and only 1 of 4 rounds were quiet: close it and run again"
    )


def test_what_varies_together_leaves_the_ratio_certain():
    together = np.array([1.0, 1.4, 0.9, 2.0, 1.2])
    assert ratio(rounds_of(together, 2 * together), "a", "b").interval == pytest.approx((0.5, 0.5), rel=0.4)
    apart = ratio(rounds_of(together, together[::-1]), "a", "b")
    assert apart.high - apart.low > 0.1


@pytest.mark.parametrize(("slower", "least", "most"), [(1.0, 0, 0), (1.15, 95, 100)])
def test_a_slowdown_is_regressed_and_noise_is_not(slower, least, most):
    """100 made-up runs of 40 rounds: 3 % of noise in each time, 1 % between runs, and a third of the rounds slow."""
    rng = np.random.default_rng(7)
    regressed = 0
    for _ in range(100):
        a, b = np.exp(0.03 * np.abs(rng.standard_normal((2, 40)))) * [[0.5 * slower], [1]]
        a = a * np.exp(0.01 * rng.normal())
        start = rng.integers(27)
        a[start : start + 13] *= rng.uniform(1.2, 1.8, 13)
        b[start : start + 13] *= rng.uniform(1.2, 1.8, 13)
        fields = ratio_fields(ratio(rounds_of(a, b), "a", "b", share=FASTEST), GATE[GATED])
        record = Record(suite="speed", case="c", metric="m", **fields)
        regressed += judge(record, Entry(case="c", metric="m", value=0.5)).status == "regressed"
    assert least <= regressed <= most


def test_both_ends_of_an_interval_are_those_that_statistics_give_of_a_mean():
    """Against the normal approximation, which for 400 rounds is good to a few per cent of an interval's half."""
    values = np.random.default_rng(0).normal(3, 0.2, 400)
    low, high = timing.bootstrapped(lambda rounds: values[rounds].mean(-1), np.arange(400))
    half = stats.norm.ppf(0.975) * values.std(ddof=1) / math.sqrt(400)
    assert (values.mean() - low, high - values.mean()) == pytest.approx((half, half), rel=0.08)
