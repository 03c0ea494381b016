"""Findings: causes, the worst first, out of verdicts, failures and what a diagnosis found. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from twinvae.bench.places import alone
from twinvae.bench.records import Failure, Key
from twinvae.bench.verdicts import DTYPES, Verdict, number
from twinvae.tensors import some

# A signature, a block or a layer says what is wrong; the others say where to look.
Kind = Literal["signature", "raises", "block", "layer", "outside", "failure", "value", "missing"]
KINDS: tuple[Kind, ...] = ("signature", "raises", "block", "layer", "outside", "failure", "value", "missing")


class Finding(BaseModel):
    """One cause, said once.

    Attributes:
        cause: a short name: a signature's, a block's, a layer's, a test's.
        headline: a sentence.
        evidence: numbers, a sentence each.
        operations: that it is about; none where that is unknown.
        tiled: whether it is about tiles alone.
        about: what alone it is about, as cases and files of tests are called: "pipeline", "checkpoint"; else empty.
        explains: how many values that fail, and tests that failed, it explains.
        command: shows it alone.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    cause: str
    headline: str
    backend: str = ""
    operations: tuple[str, ...] = ()
    evidence: tuple[str, ...] = ()
    tiled: bool = False
    about: str = ""
    explains: int = 0
    command: str = ""

    def is_about(self, key: Key) -> bool:
        """Whether a value of a whole model may be off because of it."""
        whole = key.preset or key.case.startswith("settings")  # whose configs are others than a preset's
        if key.backend != self.backend or not whole or (self.tiled and key.suite != "tiling"):
            return False
        if self.about:
            return key.case.startswith(self.about)
        return not key.operation or not self.operations or key.operation in self.operations or _both(key.operation)


class Explained(NamedTuple):
    """A finding and what it explains, which is folded under it."""

    finding: Finding
    verdicts: tuple[Verdict, ...] = ()
    failures: tuple[Failure, ...] = ()


def _both(operation: str) -> bool:
    """Whether a value is of encoding and decoding together, such as a reconstruction."""
    return operation not in ("encode", "decode")


class Departure(NamedTuple):
    """The first block of a whole-model run whose error is past its limit or its baseline."""

    verdict: Verdict
    later: int  # how many blocks after it are past theirs

    @property
    def place(self) -> tuple[str, ...]:
        return place(self.verdict.key)


def first_departures(verdicts: Iterable[Verdict]) -> list[Departure]:
    """Where errors are born: the first block that departs, per backend, mode, operation, dtype, preset and case.

    The most precise dtype comes first: it tells a departure from rounding best.
    """
    departed: dict[tuple[str, ...], dict[str, Verdict]] = {}
    ordered = [(v.record.order, v) for v in verdicts if v.failing and v.record and v.record.order is not None]
    for _, verdict in sorted(ordered, key=lambda pair: pair[0]):
        layers = departed.setdefault((*place(verdict.key), verdict.key.case, verdict.key.shape), {})
        layers.setdefault(verdict.key.layer, verdict)
    found = [Departure(next(iter(layers.values())), len(layers) - 1) for layers in departed.values()]
    rank = {dtype: index for index, dtype in enumerate(DTYPES)}
    return sorted(found, key=lambda departure: (rank.get(departure.verdict.key.dtype, 9), departure.verdict.key))


def place(key: Key) -> tuple[str, ...]:
    """What the values and the blocks of one whole-model run have in common."""
    return key.backend, key.mode, key.operation, key.dtype, key.preset


def find(
    verdicts: Sequence[Verdict],
    failures: Sequence[Failure],
    diagnosed: Sequence[Finding] = (),
    options: Sequence[str] = (),
) -> list[Explained]:
    """Every cause of what fails, the worst first; each value and each failed test under one of them.

    Args:
        diagnosed: what experiments with a backend found: they stand before what its values alone tell.
        options: of the run, for commands that show a finding alone.
    """
    left, broken = [v for v in verdicts if v.failing], list(failures)
    # A test that failed because of its values is said once, with them.
    found: list[Explained] = []

    def take(finding: Finding, ours: Sequence[Verdict], tests: Sequence[Failure] = ()) -> None:
        of_values, named = {_test(v) for v in ours}, {id(f) for f in tests}
        tests = [f for f in broken if id(f) in named or f.test in of_values]
        gone = {id(one) for one in (*ours, *tests)}
        left[:] = [v for v in left if id(v) not in gone]
        broken[:] = [f for f in broken if id(f) not in gone]
        command = finding.command or _command(ours, tests, options)
        explained = finding.model_copy(update={"explains": len(ours) + len(tests), "command": command})
        found.append(Explained(explained, tuple(ours), tuple(tests)))

    for finding in diagnosed:
        ours = [v for v in left if v.record and finding.is_about(v.key)]
        take(finding, ours, [f for f in broken if _of_operation(f, finding)])
    for backend, operation, layer, group in _births(left):
        first = group[0].verdict
        places = {departure.place for departure in group}
        later = group[0].later
        take(
            Finding(
                kind="block", cause=layer, backend=backend, operations=(operation,),
                headline=f"The first block that departs in {backend} {operation} is {layer}.",
                evidence=(
                    f"{first.key.metric} {movement(first)}, {first.reason}; in "
                    f"{_listed(d.verdict.key.mode for d in group)}; {_listed(d.verdict.key.dtype for d in group)}.",
                    f"{many(later, 'block')} after it {'is' if later == 1 else 'are'} off as well.",
                ),
            ),
            [v for v in left if v.record and place(v.key) in places],
        )  # fmt: skip
    for (backend, layer), group in _grouped(left, lambda v: (v.key.backend, _layer(v))):
        if layer:
            take(_worst("layer", layer, f"The layer alone departs: {layer}, {backend}.", group), group)
    for (_, test), group in _grouped(left, lambda v: (v.key.backend, _function(_test(v)) or v.key.case)):
        if (worst := group[0]).record:
            finding = _worst("value", test, f"{worst.key}: {movement(worst)}, {worst.reason}.", group)
            take(finding.model_copy(update={"evidence": _after_the_last_block(group, verdicts)}), group)
    for (backend,), group in _grouped(left, lambda v: (v.key.backend,)):
        headline = f"{many(len(group), 'value')} of {backend or 'the baseline'} missing, which the baseline has."
        take(_worst("missing", "missing", headline, group), group)
    while broken:
        first = broken[0]
        alike = [f for f in broken if _alike(f) == _alike(first)]
        tests, of_port = list(dict.fromkeys(_function(f.test) for f in alike)), _of_port(first)
        take(
            Finding(
                kind="failure", cause=first.message if of_port else tests[0], backend=first.backend,
                headline=first.message if of_port else f"{tests[0]}: {first.message}", command=first.rerun,
                evidence=(f"In {some(tests)}.",) if of_port else (),
            ),
            [], alike,
        )  # fmt: skip
    ranked = sorted(enumerate(found), key=lambda pair: (KINDS.index(pair[1].finding.kind), pair[0]))
    return [explained for _, explained in ranked]


def _after_the_last_block(group: Sequence[Verdict], verdicts: Sequence[Verdict]) -> tuple[str, ...]:
    """Where a whole model fails although its blocks agree, the last of them: the fault is behind it, or around all."""
    blocks = {place(v.key): v.key.layer for v in verdicts if v.record and v.record.order is not None}
    found = {(v.key.backend, v.key.operation, blocks[place(v.key)]): v for v in group if place(v.key) in blocks}
    return tuple(
        f"In {backend} {operation} every block up to the last, {last}, agrees: look at what comes after it, and at how "
        "frames and tiles are split and joined."
        for backend, operation, last in found
    )


def _births(verdicts: Sequence[Verdict]) -> list[tuple[str, str, str, list[Departure]]]:
    """The blocks in which errors are born, per backend and operation, with the departures there."""
    merged: dict[tuple[str, str, str], list[Departure]] = {}
    for departure in first_departures(verdicts):
        key = departure.verdict.key
        merged.setdefault((key.backend, key.operation, key.layer), []).append(departure)
    return [(*key, group) for key, group in merged.items()]


def _grouped(verdicts: Sequence[Verdict], by: Callable[[Verdict], tuple[str, ...]]) -> list[tuple[tuple, list]]:
    """Verdicts in groups, the worst first in each and the group with the worst first."""
    groups: dict[tuple[str, ...], list[Verdict]] = {}
    for verdict in sorted(verdicts, key=badness):
        groups.setdefault(by(verdict), []).append(verdict)
    return list(groups.items())


def _worst(kind: Kind, cause: str, headline: str, group: Sequence[Verdict]) -> Finding:
    first = group[0]
    evidence = () if kind in ("value", "missing") else (f"{first.key}: {movement(first)}, {first.reason}.",)
    operations = tuple(dict.fromkeys(v.key.operation for v in group if v.key.operation))
    return Finding(
        kind=kind, cause=cause, headline=headline, backend=first.key.backend, operations=operations, evidence=evidence
    )


def _of_operation(failure: Failure, finding: Finding) -> bool:
    """Whether a test failed of what a finding alone is about, or of outputs of another shape of an operation of it."""
    if failure.backend != finding.backend:
        return False
    if finding.about:
        return f"/test_{finding.about}.py" in failure.test
    if finding.kind == "raises":
        raised = finding.headline.partition(" fails: ")[2]
        return bool(raised) and raised in failure.message
    if not failure.message.startswith("shapes differ"):
        return False
    if "test_layers" in failure.test or (finding.tiled and "/tiling/" not in failure.test):
        return False
    named = [operation for operation in ("encode", "decode") if operation in failure.test]
    return not named or any(operation in finding.operations for operation in named)


def _layer(verdict: Verdict) -> str:
    """The layer that was measured alone; empty for whole models and what is in them."""
    alone_there = verdict.record and not verdict.key.preset and "test_layers" in verdict.record.test
    return verdict.key.case.partition(",")[0] if alone_there else ""


def _test(verdict: Verdict) -> str:
    return verdict.record.test if verdict.record else ""


def _function(test: str) -> str:
    """A test's name without its parameters and its file."""
    return test.partition("[")[0].rpartition("::")[2]


def _alike(failure: Failure) -> tuple[str, ...]:
    return failure.backend, "" if _of_port(failure) else _function(failure.test), failure.message


def _of_port(failure: Failure) -> bool:
    """Whether its message is about what a port did, whichever test it did it in (see `twinvae.port.errors`)."""
    return failure.message.startswith(("PortRaised: ", "PortGave: ", "PortEnded: ", "PortTimedOut: "))


def _command(verdicts: Sequence[Verdict], failures: Sequence[Failure], options: Sequence[str]) -> str:
    tests = [_test(v) for v in verdicts if _test(v)]
    return alone(tests[0], options) if tests else failures[0].rerun if failures else ""


def badness(verdict: Verdict) -> tuple[float, float, tuple[str, ...]]:
    """Sorts the worst first: what is missing, then by the allowance used, then by the share of the limit."""
    used = float("inf") if verdict.used is None and verdict.failing else verdict.used or 0.0
    return -round(used, 2), -(verdict.limit_share or 0.0), verdict.key


def movement(verdict: Verdict) -> str:
    before = "" if verdict.before is None else f"{number(verdict.before)} → "
    return before + measured(verdict)


def measured(verdict: Verdict, with_unit: bool = True) -> str:
    record = verdict.record
    if record is None:
        return "missing"
    text = number(record.value)
    if record.pending:
        return "needs compiling"
    if not record.sure:
        text += " (disturbed)"
    elif record.interval and record.kind != "exact":
        text += f" ({number(record.interval[0])} to {number(record.interval[1])})"
    return f"{text} {record.unit}".rstrip() if with_unit else text


def many(count: int, noun: str, plural: str = "") -> str:
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
