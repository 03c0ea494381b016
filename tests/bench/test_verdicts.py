"""Verdicts: each rule on its own, then whole runs, then where an error is born."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.bench.synthetic import RUN, parity_records, write_run
from twinvae.bench.baselines import Entry, Known, updated
from twinvae.bench.findings import first_departures
from twinvae.bench.records import Record, Selection
from twinvae.bench.verdicts import Verdict, counts, judge, judge_run, number

NAN, INF = math.nan, math.inf
ERROR = {"metric": "max_abs", "tolerance": 2, "floor": 1e-9}
STRICT = {"metric": "flops", "tolerance": 1}
PSNR = {"metric": "psnr", "better": "higher", "tolerance": 1.05, "floor": 200}
COUNT = {"metric": "frames", "better": "equal"}
RATIO = {"metric": "speedup", "kind": "ratio", "tolerance": 1.1, "runs": 9}
GAIN = RATIO | {"better": "higher"}
TIME = {"metric": "seconds", "kind": "absolute", "tolerance": 1.1}
SCORE = {"metric": "score", "kind": "absolute", "tolerance": 2}
NONE = "no entry"

# fields of the record, its value, the baseline's value, the verdict
RULES = [
    (ERROR, 1e-6, 1e-6, "pass"),
    (ERROR, 2e-6, 1e-6, "pass"),
    (ERROR, 2.01e-6, 1e-6, "regressed"),
    (ERROR, 0.5e-6, 1e-6, "pass"),
    (ERROR, 0.49e-6, 1e-6, "improved"),
    (ERROR, 1e-9, 1e-12, "pass"),  # under the floor all errors are rounding
    (ERROR, 1.1e-9, 1e-12, "regressed"),
    (ERROR, 1e-15, 1.5e-9, "pass"),
    (ERROR, 0.0, 3e-9, "improved"),
    (ERROR, 1.23456e-6, 1.23e-6, "pass"),
    (ERROR, 1e-6, NONE, "new"),
    (ERROR | {"limit": 1e-7}, 1e-6, NONE, "wrong"),
    (ERROR | {"limit": 1e-7}, 1e-6, 1e-6, "wrong"),
    (ERROR | {"limit": 1e-7}, 1e-6, 1e-9, "wrong"),  # past both
    (ERROR | {"limit": 1e-5}, 3e-6, 1e-6, "regressed"),  # past its baseline alone
    (ERROR | {"limit": 1e-6}, 1e-6, 1e-6, "pass"),
    (ERROR | {"limit": 1e-6}, 1e-6, NONE, "new"),
    (ERROR | {"limit": 0.0}, 1e-300, NONE, "wrong"),
    (ERROR, NAN, 1e-6, "regressed"),
    (ERROR, INF, 1e-6, "regressed"),
    (ERROR, NAN, NONE, "wrong"),
    (ERROR, NAN, NAN, "pass"),
    (ERROR | {"limit": 1.0}, NAN, NAN, "wrong"),
    (ERROR, 1e-6, NAN, "improved"),
    (ERROR, None, 1e-6, "regressed"),
    (ERROR, None, None, "pass"),
    (ERROR, None, NONE, "new"),
    (ERROR | {"limit": 1.0}, None, NONE, "wrong"),
    (STRICT, 100, 100, "pass"),
    (STRICT, 101, 100, "regressed"),
    (STRICT, 99, 100, "improved"),
    (STRICT, 1.23456e-6, 1.23e-6, "pass"),  # the digits that a baseline does not keep
    (STRICT, 1.24e-6, 1.23e-6, "regressed"),
    (STRICT | {"tolerance": 1.1}, 110, 100, "pass"),
    (STRICT | {"tolerance": 1.1}, 111, 100, "regressed"),
    (PSNR, 40, 41, "pass"),
    (PSNR, 38, 41, "regressed"),
    (PSNR, 44, 41, "improved"),
    (PSNR, 210, INF, "pass"),
    (PSNR, 150, INF, "regressed"),
    (PSNR, INF, 250, "pass"),
    (PSNR, -INF, 41, "regressed"),
    (PSNR | {"limit": 45}, 44, NONE, "wrong"),
    (PSNR | {"limit": 45}, 46, NONE, "new"),
    (PSNR | {"limit": 45}, -INF, NONE, "wrong"),
    (COUNT, 49, 49, "pass"),
    (COUNT, 48, 49, "regressed"),
    (COUNT, 50, 49, "regressed"),
    (COUNT, 49, NONE, "new"),
    (COUNT | {"limit": 49}, 52, NONE, "wrong"),
    (COUNT | {"limit": 49}, 52, 52, "wrong"),
    (COUNT | {"limit": 49}, 49, 49, "pass"),
    (RATIO | {"interval": (1.12, 1.2)}, 1.15, 1.0, "regressed"),
    (RATIO | {"interval": (1.05, 1.2)}, 1.15, 1.0, "inconclusive"),
    (RATIO | {"interval": (0.5, 1.5)}, 1.0, 1.0, "inconclusive"),
    (RATIO | {"interval": (0.95, 1.09)}, 1.02, 1.0, "pass"),
    (RATIO | {"interval": (0.7, 0.8)}, 0.75, 1.0, "improved"),
    (RATIO | {"interval": (0.8, 0.95)}, 0.88, 1.0, "pass"),
    (RATIO | {"interval": (1.1, 1.4), "limit": 1.05}, 1.2, NONE, "wrong"),
    (RATIO | {"interval": (1.0, 1.4), "limit": 1.05}, 1.2, NONE, "inconclusive"),
    (RATIO | {"interval": (1.05, 1.2), "limit": 1.02}, 1.15, 1.0, "wrong"),  # the limit is sure, the baseline not
    (RATIO | {"interval": (1.2, 1.4), "limit": 1.3}, 1.3, 1.0, "regressed"),  # the baseline is sure, the limit not
    (RATIO | {"interval": (1.0, 1.4), "limit": 1.5}, 1.2, 1.0, "inconclusive"),  # across its baseline alone
    (RATIO | {"interval": (1.0, 1.4), "limit": 1.3}, 1.2, 2.0, "inconclusive"),  # across its limit alone
    (RATIO, 1.2, 1.0, "regressed"),
    (GAIN | {"interval": (0.7, 0.8)}, 0.75, 1.0, "regressed"),
    (GAIN | {"interval": (0.7, 0.95)}, 0.85, 1.0, "inconclusive"),
    (GAIN | {"interval": (1.2, 1.3)}, 1.25, 1.0, "improved"),
    (GAIN | {"interval": (1.05, 1.3)}, 1.2, 1.0, "pass"),  # better for sure only where the lower end is
    (GAIN | {"interval": (0.9, 1.2), "limit": 1.0}, 1.05, NONE, "inconclusive"),
    (GAIN | {"interval": (0.8, 0.95), "limit": 1.0}, 0.9, NONE, "wrong"),
    (RATIO | {"interval": (0.7, 0.95)}, 0.8, 1.0, "pass"),
    (TIME, 1.2, 1.0, "regressed"),
    # A count that is not there, or was not.
    (COUNT, None, 49, "regressed"),
    (COUNT, 49, None, "regressed"),
    (COUNT, None, None, "pass"),
    (COUNT, None, NONE, "new"),
    (COUNT | {"limit": 49}, None, NONE, "wrong"),
    (COUNT | {"limit": 0}, None, 0, "wrong"),
    (COUNT, 0, 49, "regressed"),
    (COUNT, NAN, 49, "regressed"),
    # Below zero a tolerance leaves room in the same direction as above it.
    (SCORE, -1.0, -1.0, "pass"),
    (SCORE, -0.6, -1.0, "pass"),
    (SCORE, -0.4, -1.0, "regressed"),
    (SCORE, 0.1, -1.0, "regressed"),
    (SCORE, -2.1, -1.0, "improved"),
    (SCORE | {"better": "higher"}, -1.9, -1.0, "pass"),
    (SCORE | {"better": "higher"}, -2.1, -1.0, "regressed"),
    (SCORE | {"better": "higher"}, -0.4, -1.0, "improved"),
]  # fmt: skip


def record(value: float | None, **fields) -> Record:
    return Record(suite="parity", case="norm", value=value, **fields)


@pytest.mark.parametrize(("fields", "value", "before", "status"), RULES)
def test_a_verdict_follows_from_a_record_and_its_baseline(fields, value, before, status):
    entry = None if before == NONE else Entry(case="norm", metric=fields["metric"], value=before)
    verdict = judge(record(value, **fields), entry)
    assert verdict.status == status
    assert verdict.failing == (status in ("wrong", "regressed"))
    assert verdict.used is None or status == "inconclusive" or (verdict.used > 1) == verdict.failing


@pytest.mark.parametrize("fields", [fields for fields, *_ in RULES])
@pytest.mark.parametrize("value", [0.0, 1e-6, 50, NAN, INF, -INF, None])
def test_on_a_first_run_nothing_got_worse(fields, value):
    assert judge(record(value, **fields)).status in ("wrong", "inconclusive", "new")


@pytest.mark.parametrize(
    ("status", "mark"),
    [("wrong", " ✗"), ("regressed", " ✗"), ("missing", " ✗"), ("inconclusive", " ?"), ("needs compiling", " ?"),
     ("new", ""), ("improved", ""), ("pass", "")],
)  # fmt: skip
def test_a_verdict_has_a_mark_where_it_fails_or_says_nothing(status, mark):
    assert Verdict(status, record(1.0, **ERROR).key).mark == mark


# How two records of one thing may be apart: fields, and values from good to bad.
ORDERED = {
    "an error": (ERROR, (0.0, 1e-12, 9e-10, 4e-7, 1e-6, 2e-6, 2.1e-6, 1e-3, INF, NAN)),
    "an error with a limit": (ERROR | {"limit": 1e-6}, (0.0, 1e-7, 1e-6, 1.01e-6, 3e-6, NAN)),
    "a limit below the baseline": (ERROR | {"limit": 1e-7}, (0.0, 1e-7, 1.1e-7, 1e-6, 3e-6, INF)),
    "a likeness": (PSNR | {"limit": 30}, (INF, 250, 200, 44, 41, 39.5, 39, 30, 29, -INF, NAN)),
    "a time": (TIME, (0.5e-6, 0.9e-6, 1e-6, 1.1e-6, 1.2e-6, INF)),
    "a cost": (STRICT, (0.5e-6, 1e-6, 1.1e-6, 2e-6)),
    "a negative cost": (STRICT | {"limit": 3.0}, (-9.0, -1.0, 1e-6, 2.0, 4.0)),
}
BEFORE = {"a likeness": 41.0}


@pytest.mark.parametrize("first_run", [False, True])
@pytest.mark.parametrize("case", ORDERED)
def test_a_worse_value_never_passes_where_a_better_one_fails(case, first_run):
    fields, values = ORDERED[case]
    entry = None if first_run else Entry(case="norm", metric=fields["metric"], value=BEFORE.get(case, 1e-6))
    found = [judge(record(value, **fields), entry) for value in values]
    failing = [verdict.failing for verdict in found]
    assert failing == sorted(failing), list(zip(values, found, strict=True))
    assert any(failing) or (first_run and "limit" not in fields)
    statuses = [verdict.status for verdict in found if verdict.value is not None and math.isfinite(verdict.value)]
    order = ["improved", "pass", "new", "regressed", "wrong"]
    assert statuses == sorted(statuses, key=order.index)


@pytest.mark.parametrize("power", [-40, 3, 60])
@pytest.mark.parametrize(("fields", "value", "before", "status"), RULES)
def test_a_verdict_does_not_depend_on_the_unit(fields, value, before, status, power):
    """Value, interval, limit, floor and baseline, all times a power of two, which no rounding changes."""
    if fields | {"value": value} == STRICT | {"value": 1.23456e-6}:
        pytest.skip("of an exact value a baseline keeps three decimal digits, which a power of two changes")

    def scaled(number):
        return None if number is None else math.ldexp(number, power)

    fields = {"kind": "absolute"} | fields | {name: scaled(fields[name]) for name in {"limit", "floor"} & fields.keys()}
    if "interval" in fields:
        fields["interval"] = tuple(map(scaled, fields["interval"]))
    entry = None if before == NONE else Entry(case="norm", metric=fields["metric"], value=scaled(before))
    assert judge(record(scaled(value), **fields), entry).status == status


@pytest.mark.parametrize("fields", [ERROR, COUNT, TIME])
def test_what_cannot_be_compared_is_held_against_its_limit_alone_and_says_why(fields):
    entry = Entry(case="norm", metric=fields["metric"], value=1e-7)
    verdict = judge(record(5.0, **fields), entry, "the baseline is of another clip")
    assert (verdict.status, verdict.reason, verdict.before) == ("pass", "the baseline is of another clip", None)
    assert judge(record(5.0, **fields, limit=1.0), entry, "another clip").failing


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "none"), (NAN, "nan"), (1e-10, "1e-10"), (3.14159e-8, "3.14e-08"), (49.0, "49"),
     (1.25e12, "1,250,000,000,000"), (0.123456, "0.123"), (12.3456, "12.35"), (1234567.8, "1.23e+06")],
)  # fmt: skip
def test_numbers_read_well(value, text):
    assert number(value) == text


def baseline_of(tmp_path, records=None, run=RUN):
    return updated(None, write_run(tmp_path, parity_records() if records is None else records, run))


def test_the_same_run_again_passes_whole(tmp_path):
    verdicts = judge_run(write_run(tmp_path, parity_records()), baseline_of(tmp_path))
    assert counts(verdicts) == {"pass": len(parity_records())}


def test_without_a_baseline_everything_is_new(tmp_path):
    assert set(counts(judge_run(write_run(tmp_path, parity_records()), None))) == {"new"}


def test_what_a_complete_run_leaves_out_is_missing_and_what_it_did_not_select_is_not(tmp_path):
    baseline = baseline_of(tmp_path)
    left_out = parity_records()[1:]
    assert counts(judge_run(write_run(tmp_path, left_out), baseline))["missing"] == 1
    only_flax = RUN.model_copy(update={"selection": Selection(backends=("flax",))})
    data = write_run(tmp_path, [r for r in parity_records() if r.backend == "flax"], only_flax)
    assert "missing" not in counts(judge_run(data, baseline))


@pytest.mark.parametrize(("complete", "exit_status"), [(None, 0), (False, 0), (False, 2)])
def test_nothing_is_missing_from_a_run_that_is_not_complete(tmp_path, complete, exit_status):
    baseline = baseline_of(tmp_path)
    data = write_run(tmp_path, parity_records()[:5], complete=complete, exit_status=exit_status)
    assert counts(judge_run(data, baseline)) == {"pass": 5}


@pytest.mark.parametrize("field", ["weights", "clip", "seed"])
def test_another_input_is_compared_with_nothing_and_misses_nothing(tmp_path, field):
    baseline = baseline_of(tmp_path)
    run = RUN.model_copy(update={field: 9 if field == "seed" else "other"})
    worse = [r.model_copy(update={"value": 9 * r.value, "limit": None}) for r in parity_records()[:-1]]
    verdicts = judge_run(write_run(tmp_path, worse, run), baseline)
    assert set(counts(verdicts)) == {"pass"}
    assert {verdict.reason for verdict in verdicts} == {f"the baseline is of {field} {getattr(RUN, field)}"}


def test_the_order_of_records_changes_no_verdict(tmp_path):
    baseline = baseline_of(tmp_path)
    records = [r.model_copy(update={"value": r.value * 3 ** (i % 4)}) for i, r in enumerate(parity_records()[:-5])]
    shuffled = [records[i] for i in np.random.default_rng(0).permutation(len(records))]
    one, other = (judge_run(write_run(tmp_path, order), baseline) for order in (records, shuffled))
    assert {"regressed", "pass", "missing"} <= set(counts(one))
    assert {v.key: v for v in one} == {v.key: v for v in other}
    assert first_departures(one) == first_departures(other)


def test_times_are_compared_on_the_same_machine_only_and_all_else_on_any(tmp_path):
    records = [record(1.0, **TIME), record(1e-6, **ERROR)]
    baseline = baseline_of(tmp_path, records)
    worse = [record(9.0, **TIME), record(9e-6, **ERROR)]
    here = judge_run(write_run(tmp_path, worse), baseline)
    there = judge_run(write_run(tmp_path, worse, RUN.model_copy(update={"machine": "other"})), baseline)
    assert [v.status for v in here] == ["regressed", "regressed"]
    assert [v.status for v in there] == ["pass", "regressed"]


@pytest.mark.parametrize("changes", [{"machine": "other"}, {"versions": RUN.versions | {"torch": "99"}}])
def test_a_ratio_past_its_baseline_may_be_anothers_doing_and_past_its_limit_it_is_wrong_all_the_same(tmp_path, changes):
    baseline = baseline_of(tmp_path, [record(1.0, **RATIO)])
    run = RUN.model_copy(update=changes)
    for limit, status in ((None, "inconclusive"), (1.5, "wrong")):
        (found,) = judge_run(write_run(tmp_path, [record(2.0, **RATIO, limit=limit)], run), baseline)
        assert found.status == status


def test_each_value_is_held_against_the_run_that_its_own_entry_is_of(tmp_path):
    """The baseline's runs are of two clips, and this run of the second one."""
    both = [record(1e-6, **ERROR, backend=backend) for backend in ("flax", "torchax")]
    flax, torchax = (RUN.model_copy(update={"selection": Selection(backends=(one.backend,))}) for one in both)
    now = RUN.model_copy(update={"clip": "a.mp4"})
    first = updated(None, write_run(tmp_path, both[:1], flax))
    baseline = updated(first, write_run(tmp_path, both[1:], torchax.model_copy(update={"clip": "a.mp4"})))
    assert [run.clip for run in baseline.runs] == [RUN.clip, "a.mp4"]
    worse = [one.model_copy(update={"value": 1e-3}) for one in both]
    found = {v.key.backend: v for v in judge_run(write_run(tmp_path, worse, now), baseline)}
    assert {backend: v.status for backend, v in found.items()} == {"flax": "pass", "torchax": "regressed"}
    assert found["flax"].reason == f"the baseline is of clip {RUN.clip}"
    none = judge_run(write_run(tmp_path, [], now), baseline)
    assert [(v.key.backend, v.status) for v in none] == [("torchax", "missing")]


def test_what_improved_says_which_other_value_of_its_case_is_worse_than_it_was(tmp_path):
    fast, exact = STRICT | {"backend": "flax"}, ERROR | {"tolerance": 10.0, "backend": "flax"}
    before = [record(100, **fast), record(2e-6, **exact)]
    baseline = baseline_of(tmp_path, before)

    def reasons(error, **other):
        now = [record(90, **fast), record(error, **(exact | other))]
        return {v.key.metric: (v.status, v.reason) for v in judge_run(write_run(tmp_path, now), baseline)
                if v.key.backend == "flax"}  # fmt: skip

    assert reasons(2e-6)["flops"] == ("improved", "")
    assert reasons(1e-6)["flops"] == ("improved", "")
    assert reasons(1e-5) == {"flops": ("improved", "but max_abs went from 2e-06 to 1e-05"), "max_abs": ("pass", "")}
    assert reasons(9e-5)["flops"] == ("improved", "but max_abs went from 2e-06 to 9e-05")
    assert reasons(9e-5)["max_abs"][0] == "regressed"
    assert reasons(1e-5, backend="torchax")["flops"] == ("improved", "")
    assert reasons(1e-9)["flops"] == ("improved", "")


@pytest.mark.parametrize(
    ("fields", "before", "now", "said"),
    [(PSNR, 41, 40, "but psnr went from 41 to 40"), (PSNR, 250, 210, ""), (PSNR | {"floor": 0}, 250, 245, "but psnr"),
     (ERROR, 1e-12, 9e-10, ""), (TIME, 1.0, 1.05, ""), (COUNT, 49, 49, "")],
)  # fmt: skip
def test_rounding_noise_and_what_is_as_it_was_are_no_cost_of_an_improvement(tmp_path, fields, before, now, said):
    baseline = baseline_of(tmp_path, [record(100, **STRICT), record(before, **fields)])
    found = judge_run(write_run(tmp_path, [record(now, **fields), record(90, **STRICT)]), baseline)
    assert [v.status for v in found] == ["pass", "improved"]
    assert found[1].reason.startswith(said)
    assert bool(found[1].reason) == bool(said)


def test_other_versions_are_still_compared(tmp_path):
    run = RUN.model_copy(update={"versions": {"jax": "99"}})
    data = write_run(tmp_path, [record(9e-6, **ERROR)], run)
    assert judge_run(data, baseline_of(tmp_path, [record(1e-6, **ERROR)]))[0].failing


KNOWN = Known(reason="pooling is reshaped", owner="kim")
LIMITED = ERROR | {"limit": 1e-7}


@pytest.mark.parametrize(
    ("fields", "value", "before", "status"),
    [
        (LIMITED, 1e-6, 1e-6, "known"),
        (LIMITED, 2e-6, 1e-6, "known"),  # within the tolerance of what was accepted
        (LIMITED, 2.1e-6, 1e-6, "regressed"),
        (LIMITED, 0.9e-7, 1e-6, "improved"),
        (LIMITED, NAN, 1e-6, "regressed"),
        (LIMITED, NAN, NAN, "known"),
        (LIMITED, 1e-3, NAN, "known"),
        (ERROR, 1e-6, 1e-6, "known"),  # without a limit, beside one that is past its own
        (ERROR, 3e-6, 1e-6, "regressed"),
        (COUNT | {"limit": 49}, 52, 52, "known"),
        (COUNT | {"limit": 49}, 51, 52, "regressed"),
        (COUNT | {"limit": 49}, 49, 52, "improved"),
    ],
)
def test_a_known_failure_passes_while_it_is_no_worse_and_is_said_when_it_is_fixed(fields, value, before, status):
    entry = Entry(case="norm", metric=fields["metric"], value=before, known=KNOWN)
    verdict = judge(record(value, **fields), entry)
    assert verdict.status == status
    assert verdict.failing == (status == "regressed")
    assert verdict.reason.endswith("pooling is reshaped (kim)")


def test_of_another_clip_nothing_is_known():
    entry = Entry(case="norm", metric="max_abs", value=1e-6, known=KNOWN)
    assert judge(record(1e-6, **LIMITED), entry, "the baseline is of another clip").status == "wrong"
