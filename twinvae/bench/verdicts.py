"""Verdicts: what a record, held against its baseline entry and its limit, says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, cast

from twinvae.bench.baselines import Baseline, Entry, Known, stored
from twinvae.bench.records import Key, Record, Run, RunData

Status = Literal["wrong", "regressed", "missing", "known", "needs compiling", "inconclusive", "new", "improved", "pass"]
STATUSES: tuple[Status, ...] = (
    "wrong", "regressed", "missing", "known", "needs compiling", "inconclusive", "new", "improved", "pass",
)  # fmt: skip
FAILING = ("wrong", "regressed", "missing")
COMPILER, REFERENCE_PACKAGES = ("jax", "jaxlib"), ("torch", "diffusers")
DTYPES = ("float64", "float32", "bfloat16")  # in the order in which they show a departure best


@dataclass(frozen=True)
class Verdict:
    """What a value is worth.

    Attributes:
        status: "wrong" is past its limit, whatever was before; "regressed" is within it, and past its baseline;
            "known" is accepted with a reason and an owner, and no worse than it was then.
        reason: why, in words; empty for a plain pass.
        record: None where it is missing.
        before: the baseline's value; None without a baseline to compare with.
        used: the value over the strictest bar it has to pass under, so that 1 is just allowed; None without a bar.
    """

    status: Status
    key: Key
    reason: str = ""
    record: Record | None = None
    before: float | None = None
    used: float | None = None

    @property
    def failing(self) -> bool:
        return self.status in FAILING

    @property
    def mark(self) -> str:
        """What stands behind the value in a table: ✗ where it fails, ? where nothing can be said."""
        return " ✗" if self.failing else " ?" if self.status in ("inconclusive", "needs compiling") else ""

    @property
    def value(self) -> float | None:
        return self.record.value if self.record else None

    @property
    def limit_share(self) -> float | None:
        """The value over its limit, for what is better the lower it is."""
        if self.value is None or self.record.better != "lower" or not self.record.limit:
            return None
        share = self.value / self.record.limit
        return math.inf if math.isnan(share) else share

    @property
    def factor(self) -> float | None:
        """The value over the baseline's."""
        value = stored(self.record) if self.record else None
        return value / self.before if value is not None and self.before else None


def judge(record: Record, entry: Entry | None = None, incomparable: str = "", doubt: str = "") -> Verdict:
    """Hold a record against its limit and its baseline entry.

    Args:
        incomparable: why the entry cannot be compared with (another clip, another machine); the limit still can.
        doubt: why a value that is past the entry need not have got worse, which makes it inconclusive.
    """
    before = entry.value if entry and not incomparable else None
    comparable = entry is not None and not incomparable
    unknown: tuple[Status, str] = ("pass", incomparable) if entry else ("new", "no baseline")
    if not record.sure:
        unknown = unknown[0], record.note

    def verdict(status: Status, reason: str = "", used: float | None = None) -> Verdict:
        return Verdict(status, record.key, reason, record, before, used)

    if entry and comparable and entry.known:
        return _judge_known(record, entry, verdict)

    if record.pending:
        return verdict("needs compiling", f"`{record.pending}`" + (f" ({record.note})" if record.note else ""))

    if math.isinf(record.tolerance) and record.limit is None:
        return verdict("pass" if entry else "new", record.note or "shown, and held against no baseline")

    if record.better == "equal":
        if record.limit is not None and record.value != record.limit:
            return verdict("wrong", f"must be {number(record.limit)}", math.inf)
        if comparable and record.value != before:
            return verdict("regressed", f"must stay {number(before)}", math.inf)
        return verdict("pass") if comparable else verdict(*unknown)

    if record.value is None or _hopeless(record.value, record):
        found = record.note or ("no value" if record.value is None else "not finite")
        if record.limit is not None:
            return verdict("wrong", f"{found}, limit {number(record.limit)}", math.inf)
        if comparable and _hopeless(before, record):
            return verdict("pass", f"{found}, as in the baseline")
        if comparable or record.value is not None:
            return verdict("regressed" if comparable else "wrong", found, math.inf)
        return verdict(*unknown)

    interval = record.interval if record.interval and record.kind != "exact" else (record.value, record.value)
    limit_used = None if record.limit is None else _used(interval, record.limit, record)
    if limit_used and limit_used.best > 1:
        return verdict("wrong", "past its limit", limit_used.best)
    if comparable and (before is None or _hopeless(before, record)):
        return verdict("improved", "the baseline has no finite value")

    baseline_used, better = None, False
    if before is not None and not math.isinf(record.tolerance):
        if record.kind == "exact":
            value = cast(float, stored(record))
            interval = value, value
        allowed = _bar(before, record)
        baseline_used = _used(interval, allowed, record)
        if baseline_used.best > 1 and doubt:
            return verdict("inconclusive", f"past the baseline, but {doubt}", baseline_used.best)
        if baseline_used.best > 1:
            return verdict("regressed", f"the baseline allows {number(allowed)}", baseline_used.best)
        better = not doubt and _clearly_better(interval, before, record)
    bars = [used for used in (limit_used, baseline_used) if used]
    used = max((bar.likely for bar in bars), default=None)
    if any(bar.worst > 1 for bar in bars):
        low, high = interval
        noise = f"too noisy: {number(low)} to {number(high)} over {record.runs} runs"
        return verdict("inconclusive", noise if record.sure else record.note, used if record.sure else None)
    if not comparable:
        return verdict(*unknown, used if record.sure else None)
    if better:
        return verdict("improved", "", used)
    return verdict("pass", "", used)


def _judge_known(record: Record, entry: Entry, verdict: Callable[..., Verdict]) -> Verdict:
    """A failure that was accepted: as bad as it was then, worse, or fixed."""
    known, value = cast(Known, entry.known), stored(record)
    accepted = f"{known.reason} ({known.owner})"
    if record.limit is not None and not judge(record).failing:
        return verdict("improved", f"fixed, and was accepted: {accepted}")
    if record.better == "equal":
        alike = value == entry.value
    elif entry.value is None or _hopeless(entry.value, record):
        alike = True  # nothing is worse than no number
    else:
        allowed = _bar(entry.value, record)
        alike = value is not None and not _hopeless(value, record) and _over(value, allowed, record) <= 1
    if not alike:
        return verdict("regressed", f"worse than what was accepted: {accepted}", math.inf)
    return verdict("known", accepted)


class _Used(NamedTuple):
    """A value over its bar (1 is just allowed), for the better end of the interval, its middle and its worse end."""

    best: float
    likely: float
    worst: float


def _used(interval: tuple[float, float], bar: float, record: Record) -> _Used:
    low, high = interval
    worse_first = record.better == "higher"
    best, worst = (high, low) if worse_first else (low, high)
    return _Used(*(_over(value, bar, record) for value in (best, (low + high) / 2, worst)))


def _over(value: float, bar: float, record: Record) -> float:
    """How much of the way to the bar a value has used; above 1 exactly where it is past the bar."""
    past = value > bar if record.better == "lower" else value < bar
    top, bottom = (value, bar) if record.better == "lower" else (bar, value)
    share = top / bottom if top > 0 and bottom > 0 and math.isfinite(bottom) else (math.inf if past else 0.0)
    return max(share, math.nextafter(1, 2)) if past else min(share, 1.0)


def _bar(before: float, record: Record) -> float:
    """The worst value that a baseline allows."""
    if record.better == "lower":
        return max(_moved(before, record.tolerance), record.floor or -math.inf)
    return min(_moved(before, 1 / record.tolerance), record.floor or math.inf)


def _clearly_better(interval: tuple[float, float], before: float, record: Record) -> bool:
    if record.better == "lower":
        return max(interval[1], record.floor or -math.inf) < _moved(before, 1 / record.tolerance)
    return min(interval[0], record.floor or math.inf) > _moved(before, record.tolerance)


def _moved(value: float, factor: float) -> float:
    """The value times a factor, in the same direction also where it is negative."""
    return value * factor if value >= 0 else value / factor


def _hopeless(value: float | None, record: Record) -> bool:
    worst = math.inf if record.better == "lower" else -math.inf
    return value is None or math.isnan(value) or value == worst


def judge_run(data: RunData, baseline: Baseline | None) -> list[Verdict]:
    """Every verdict of a run: of its records, in their order, then of what the baseline has and the run has not."""
    entries = baseline.by_key if baseline else {}
    verdicts = []
    for record in data.records:
        verdicts.append(judge_in(data.run, record, baseline))
    if data.complete:
        measured = {record.key for record in data.records}
        verdicts += [
            Verdict("missing", key, "the baseline has it, this run has not", before=entry.value)
            for key, entry in entries.items()
            if key not in measured
            and data.run.selection.holds(key.backend, key.mode, key.dtype, key.preset)
            and not incomparable(data.run, baseline.runs[entry.run])
        ]
    return with_what_it_cost(verdicts)


def with_what_it_cost(verdicts: list[Verdict]) -> list[Verdict]:
    """Of what improved, the value of the same case that got worse by the largest factor, if only within its bars."""
    worse: dict[Key, Verdict] = {}
    for verdict in verdicts:
        case = verdict.key._replace(metric="")
        if _loss(verdict) > max(1.0, _loss(worse[case]) if case in worse else 1.0):
            worse[case] = verdict
    found = []
    for verdict in verdicts:
        cost = worse.get(verdict.key._replace(metric="")) if verdict.status == "improved" else None
        reason = f"but {cost.key.metric} went from {number(cost.before)} to {number(cost.value)}" if cost else ""
        found.append(replace(verdict, reason="; ".join(filter(None, (verdict.reason, reason)))) if cost else verdict)
    return found


def _loss(verdict: Verdict) -> float:
    """By what factor a value is worse than its baseline; at most 1 where it is not, or where that is rounding."""
    record, factor = verdict.record, verdict.factor
    if not record or not factor or factor < 0 or record.kind != "exact" or record.better == "equal":
        return 1.0
    as_good = record.floor and not _over(cast(float, verdict.value), record.floor, record) > 1
    if math.isinf(record.tolerance) or as_good:
        return 1.0
    return factor if record.better == "lower" else 1 / factor


def judge_in(run: Run, record: Record, baseline: Baseline | None) -> Verdict:
    """A record of a run, held against its baseline where the two can be compared."""
    entry = baseline.by_key.get(record.key) if baseline else None
    source = baseline.runs[entry.run] if entry else run
    apart = incomparable(run, source, record.kind, record.of_compiler)
    return judge(record, entry, apart, doubt(run, source, record.kind))


def incomparable(run: Run, source: Run, kind: str = "exact", of_compiler: bool = False) -> str:
    """Why values of two runs cannot be compared, or nothing."""
    for name in ("weights", "clip", "seed"):
        now, before = getattr(run, name), getattr(source, name)
        if now != before:
            return f"the baseline is of {name} {before}"
    if of_compiler:
        for name in COMPILER:
            now, before = (one.versions.get(name, "none") for one in (run, source))
            if now != before:
                return f"the baseline is of {name} {before}, which compiles to another program"
        if (run.device, run.cores) != (source.device, source.cores):
            return f"the baseline is of {source.device}, {source.cores} cores, for which another program is compiled"
    return "the baseline is of another machine" if kind == "absolute" and run.machine != source.machine else ""


def doubt(run: Run, source: Run, kind: str) -> str:
    """Why a ratio of two times may have changed without the code: both sides need not follow a machine alike."""
    if kind != "ratio":
        return ""
    for name in REFERENCE_PACKAGES:
        now, before = (one.versions.get(name, "none") for one in (run, source))
        if now != before:
            return f"the baseline is of {name} {before}, and what it is a ratio to may have changed"
    if run.machine != source.machine:
        return "the baseline is of another machine; `nox -s baseline` makes one of this"
    return ""


def counts(verdicts: Sequence[Verdict]) -> dict[Status, int]:
    """How many of each status there are, the worst first, without those that there are none of."""
    found = Counter(verdict.status for verdict in verdicts)
    return {status: found[status] for status in STATUSES if found[status]}


def number(value: float | None) -> str:
    """A value as people read it: three digits below 1, four above, and whole numbers whole."""
    if value is None:
        return "none"
    if not math.isfinite(value):
        return str(value)
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.4g}" if 1 <= abs(value) < 1e5 else f"{value:.3g}"
