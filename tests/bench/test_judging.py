"""Verdicts by rules that hold whatever the numbers are, on records drawn by Hypothesis."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.bench.synthetic import RUN
from twinvae.bench.baselines import Baseline, Entry, updated
from twinvae.bench.records import End, Record, RunData
from twinvae.bench.verdicts import judge, judge_run

# The same examples on every run: what they find once, they find again.
EXAMPLES = settings(derandomize=True, max_examples=100, deadline=None, database=None)

MAGNITUDES = [1e-12, 2.5e-7, 1e-6, 1.3e-6, 0.5, 1.0, 1.05, 2.0, 49.0, 1e9]
NUMBERS = st.sampled_from([0.0, *MAGNITUDES, *(-one for one in MAGNITUDES)])
VALUES = NUMBERS | st.sampled_from([math.nan, math.inf, -math.inf, None])
DIRECTIONS = st.sampled_from(["lower", "higher"])
TOLERANCES = st.sampled_from([1.0, 1.05, 1.25, 2.0, 10.0, math.inf])
NO_ENTRY = "no entry"
DOUBTS = st.sampled_from(["", "another machine"])
BEFORE = VALUES | st.just(NO_ENTRY)
FAILING = ("wrong", "regressed")


@st.composite
def rules(draw: Any, better: Any = DIRECTIONS) -> dict[str, Any]:
    """What a record is held to."""
    return {
        "better": draw(better),
        "kind": draw(st.sampled_from(["exact", "ratio", "absolute"])),
        "tolerance": draw(TOLERANCES),
        "floor": draw(st.sampled_from([0.0, 1e-9, 1.0])),
        "limit": draw(st.none() | NUMBERS),
    }


@st.composite
def spreads(draw: Any) -> tuple[float, float]:
    """How far an interval reaches below and above its value."""
    return draw(st.sampled_from([0.0, 1e-7, 0.1])), draw(st.sampled_from([0.0, 1e-7, 0.1]))


def status(
    value: float | None, before: Any, rule: dict[str, Any], spread: Any = None, incomparable: str = "", doubt: str = ""
) -> str:
    interval = None
    if spread and value is not None and rule["kind"] != "exact":
        interval = value - spread[0], value + spread[1]
    record = Record(suite="parity", case="norm", metric="mae", value=value, interval=interval, **rule)
    entry = None if before == NO_ENTRY else Entry(case="norm", metric="mae", value=before)
    return judge(record, entry, incomparable, doubt).status


def badness(value: float | None, better: str) -> float:
    """Higher is worse; what is no number is the worst."""
    if value is None or math.isnan(value):
        return math.inf
    return value if better == "lower" else -value


@EXAMPLES
@given(rules(), VALUES, VALUES, BEFORE, spreads())
def test_a_worse_value_never_passes_where_a_better_one_fails(rule, one, other, before, spread):
    better, worse = sorted((one, other), key=lambda value: badness(value, rule["better"]))
    if badness(better, rule["better"]) == badness(worse, rule["better"]) == math.inf:
        return  # nothing is worse than no number
    if status(better, before, rule, spread) in FAILING:
        assert status(worse, before, rule, spread) in FAILING


@EXAMPLES
@given(rules(), NUMBERS, BEFORE, spreads(), st.sampled_from([-40, 3, 60]))
def test_a_verdict_does_not_depend_on_the_unit(rule, value, before, spread, power):
    """Of values that a baseline keeps whole: of an exact error it keeps three decimal digits."""
    rule |= {"kind": "absolute"}

    def scaled(number: Any) -> Any:
        return number if number in (None, NO_ENTRY) else math.ldexp(number, power)

    larger = rule | {"limit": scaled(rule["limit"]), "floor": scaled(rule["floor"])}
    larger_spread = tuple(scaled(side) for side in spread)
    assert status(value, before, rule, spread) == status(scaled(value), scaled(before), larger, larger_spread)


@EXAMPLES
@given(rules(), VALUES, BEFORE, spreads(), NUMBERS, TOLERANCES)
def test_holding_a_value_more_tightly_never_makes_it_pass(rule, value, before, spread, limit, tolerance):
    order = min if rule["better"] == "lower" else max
    tighter = rule | {
        "limit": limit if rule["limit"] is None else order(limit, rule["limit"]),
        "tolerance": min(tolerance, rule["tolerance"]),
        "floor": 0.0,
    }
    if status(value, before, rule, spread) in FAILING:
        assert status(value, before, tighter, spread) in FAILING


@EXAMPLES
@given(rules(), VALUES, NUMBERS, BEFORE, DOUBTS, DOUBTS)
def test_what_is_past_its_limit_is_wrong_and_so_is_no_number_whatever_is_doubted_of_the_baseline(
    rule, value, limit, before, incomparable, doubt
):
    past = badness(value, rule["better"]) > badness(limit, rule["better"])
    found = status(value, before, rule | {"limit": limit}, incomparable=incomparable, doubt=doubt)
    assert (found == "wrong") == past


@EXAMPLES
@given(rules(), NUMBERS, NUMBERS, spreads())
def test_what_improved_is_better_and_what_regressed_is_worse(rule, value, before, spread):
    found = status(value, before, rule | {"limit": None}, spread)
    gain = badness(before, rule["better"]) - badness(value, rule["better"])
    assert {"improved": gain > 0, "regressed": gain < 0}.get(found, True)


@EXAMPLES
@given(rules(), NUMBERS)
def test_a_value_that_is_as_it_was_is_neither_worse_nor_better(rule, value):
    assert status(value, value, rule | {"limit": None}) == "pass"


@EXAMPLES
@given(rules(), VALUES)
def test_what_was_never_measured_before_did_not_get_worse(rule, value):
    assert status(value, NO_ENTRY, rule) in ("new", "wrong")


@EXAMPLES
@given(rules(better=st.just("equal")), VALUES, VALUES)
def test_a_count_passes_where_it_is_what_it_must_be_and_was_and_nowhere_else(rule, value, before):
    if math.isinf(rule["tolerance"]) and rule["limit"] is None:
        return  # shown only
    right = value == before and rule["limit"] in (None, value)
    assert (status(value, before, rule) == "pass") == right
    assert (status(value, before, rule) in FAILING) != right


# Whole runs


CASES = ("norm", "conv", "resnet")
METRICS = ("mae", "max_abs", "frames")


@st.composite
def runs(draw: Any) -> tuple[list[Record], Baseline]:
    """A run's records, and a baseline of two runs, of another seed each, that has some of them and more."""
    keys = draw(st.lists(st.tuples(st.sampled_from(CASES), st.sampled_from(METRICS)), min_size=1, unique=True))
    records = [
        Record(suite="parity", case=case, metric=metric, value=draw(VALUES),
               **draw(rules(better=st.just("equal") if metric == "frames" else DIRECTIONS)))
        for case, metric in keys
    ]  # fmt: skip
    known = draw(st.lists(st.sampled_from([*keys, ("gone", "mae")]), unique=True))
    entries = [Entry(case=c, metric=m, value=draw(VALUES), run=draw(st.integers(0, 1))) for c, m in known]
    return records, Baseline(runs=(RUN, RUN.model_copy(update={"seed": 9})), entries=tuple(entries))


@EXAMPLES
@given(runs())
def test_what_is_missing_is_what_the_baselines_comparable_run_has_and_this_one_has_not(run):
    records, baseline = run
    measured = {record.key for record in records}
    left_out = {entry.key("parity") for entry in baseline.entries if entry.run == 0} - measured
    assert {v.key for v in judge_run(data_of(records), baseline) if v.status == "missing"} == left_out
    assert not any(v.status == "missing" for v in judge_run(data_of(records, complete=False), baseline))


def data_of(records: list[Record], complete: bool = True) -> RunData:
    return RunData(RUN, tuple(records), (), (), End(complete=complete, exit_status=0, seconds=0), (), Path())


def told(verdicts: Any) -> dict[Any, str]:
    return {verdict.key: (verdict.status, repr(verdict.before), verdict.reason) for verdict in verdicts}


@EXAMPLES
@given(runs(), st.randoms(use_true_random=False))
def test_a_run_in_another_order_is_judged_the_same(run, random):
    records, baseline = run
    shuffled = random.sample(records, len(records))
    entries = tuple(random.sample(baseline.entries, len(baseline.entries)))
    one = judge_run(data_of(records), baseline)
    assert told(one) == told(judge_run(data_of(shuffled), baseline.model_copy(update={"entries": entries})))


@EXAMPLES
@given(runs(), VALUES, rules())
def test_a_value_of_another_case_changes_no_other_verdict(run, value, rule):
    records, baseline = run
    other = Record(suite="parity", case="unrelated", metric="mae", value=value, **rule)
    alone, beside = (judge_run(data_of(some), baseline) for some in (records, [other, *records]))
    assert told(alone) == {key: said for key, said in told(beside).items() if key != other.key}


@EXAMPLES
@given(runs())
def test_every_value_is_judged_as_it_is_alone_whatever_else_improved(run):
    records, baseline = run
    for verdict in judge_run(data_of(records), baseline):
        if verdict.record:
            (alone,) = judge_run(data_of([verdict.record], complete=False), baseline)
            assert (alone.status, alone.used) == (verdict.status, verdict.used)


@EXAMPLES
@given(runs())
def test_a_run_that_was_just_accepted_is_not_worse_than_itself(run):
    records, baseline = run
    data = data_of([record.model_copy(update={"limit": None}) for record in records])
    statuses = {v.key: v for v in judge_run(data, updated(baseline, data))}
    failing = [v for v in statuses.values() if v.failing and not (v.value is not None and math.isnan(v.value))]
    assert not failing
