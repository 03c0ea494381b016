"""A diagnosis: experiments with a port, signatures that explain them, and where it departs where none does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from twinvae.bench.diagnosis.experiments import CASES, OUTPUT, ROUNDING, Case, Subject, off_by
from twinvae.bench.diagnosis.search import Confirmed, Observed, Search
from twinvae.bench.diagnosis.signatures import TILED
from twinvae.bench.diagnosis.variant import Variant, batches
from twinvae.bench.findings import Finding, many
from twinvae.bench.verdicts import number
from twinvae.config import VAEConfig
from twinvae.frames import DECODED_TOGETHER, ENCODED_TOGETHER, decoded_frames, encoded_frames
from twinvae.port import NotTaken
from twinvae.seeded import seeded_tensors
from twinvae.tensors import some
from twinvae.tiles import Operation

OPERATIONS: tuple[Operation, ...] = ("decode", "encode")
SECONDS = 120.0


class Diagnosis(NamedTuple):
    """What experiments with a port came to.

    Attributes:
        tried: how many experiments.
        left_out: cases that were not tried, and why.
        seconds: until the first finding, and in all.
    """

    findings: tuple[Finding, ...]
    tried: int
    left_out: tuple[str, ...]
    seconds: tuple[float, float]


class _Broken(NamedTuple):
    case: Case
    message: str


def diagnose(
    subject: Subject,
    name: str,
    *,
    cases: Sequence[Case] = CASES,
    seed: int = 0,
    seconds: float = SECONDS,
    say: Callable[[Finding], None] = lambda finding: None,
    command: str = "",
    clock: Callable[[], float] = time.monotonic,
) -> Diagnosis:
    """Put small clips through a port, and find out what it does another way than diffusers.

    Args:
        name: of the backend, in findings.
        seconds: how long to look; what was found until then is said.
        say: what to call with each finding as it is found.
        command: that runs this diagnosis; a case's name is appended to show a finding alone.
    """
    began = clock()
    found: list[tuple[float, Finding]] = []
    left_out: list[str] = []
    tried = 0
    confirmed: dict[Any, list[tuple[Operation, Confirmed]]] = {}
    said: dict[str, float] = {}  # when each cause was said, once for both operations

    def tell(finding: Finding) -> float:
        what = finding.cause if finding.kind == "signature" else finding.headline
        if what not in said:
            said[what] = clock() - began
            say(finding.model_copy(update={"backend": name}))
        return said[what]

    def add(finding: Finding, case: Case | None) -> None:
        alone = f"{command} --case '{case.name}'" if command and case else command
        found.append((tell(finding), finding.model_copy(update={"backend": name, "command": alone})))

    for index, operation in enumerate(OPERATIONS):
        until = began + seconds * (index + 1) / len(OPERATIONS)
        observed, broken = [], []
        for case in (case for case in cases if case.operation == operation):
            if case.needs and case.needs not in subject.has:
                left_out.append(f"{case.name} ({operation}): it has no {case.needs}")
            elif observed and clock() > began + (until - began) * 0.7:
                left_out.append(f"{case.name} ({operation}): no time left")
            else:
                try:
                    observed.append(_observe(subject, case, seed))
                except NotTaken as error:
                    left_out.append(f"{case.name} ({operation}): {error}")
                except Exception as error:  # whatever a port raises is about the port
                    broken.append(_Broken(case, str(error) or type(error).__name__))
        tried += len(observed) + len(broken)
        for finding, case in _of_broken(operation, broken, observed):
            add(finding, case)
        if not observed:
            continue
        search, coarse = _searched(
            observed, subject.dtype, until, clock, lambda one, which=operation: tell(_of_signature(which, one))
        )
        if coarse:
            add(_of_rounding(operation, search, coarse), observed[0].case)
        for one in search.confirmed:
            key = one.signature.field, str(one.signature.value), one.signature.where
            confirmed.setdefault(key, []).append((operation, one))
            if len(confirmed[key]) == 1:
                add(_of_signature(operation, one), one.shown)
            else:  # the other operation has it as well: one cause
                which = next(i for i, (_, f) in enumerate(found) if f.cause == one.signature.name)
                found[which] = found[which][0], _with_operation(found[which][1], operation, one)
        if search.unexplained:
            add(_of_unexplained(operation, search), search.unexplained[0].case)
    order = {"signature": 0, "block": 1, "raises": 2}
    ranked = sorted((f for _, f in found), key=lambda f: (order.get(f.kind, 3), -f.explains))
    first = min((at for at, _ in found), default=clock() - began)
    return Diagnosis(tuple(ranked), tried, tuple(left_out), (first, clock() - began))


def diagnosis_lines(found: Diagnosis) -> list[str]:
    """What a terminal shows of it: findings with their evidence, then what was tried."""
    lines = []
    for index, finding in enumerate(found.findings, start=1):
        lines += ["", f"{index}. {finding.headline}", *(f"   {line}" for line in finding.evidence)]
        lines += [f"   $ {finding.command}"] if finding.command else []
    first, whole = found.seconds
    when = f", the first after {first:.0f} s" if found.findings else ""
    count = f"{many(len(found.findings), 'finding')} from {many(found.tried, 'experiment')}"
    lines += ["", f"{count} in {whole:.0f} s{when}."]
    if found.left_out:
        reasons = dict.fromkeys(line.rpartition(": ")[2] for line in found.left_out)
        lines.append(f"Not tried: {many(len(found.left_out), 'experiment')} ({'; '.join(reasons)}).")
    return lines


def _observe(subject: Subject, case: Case, seed: int) -> Observed:
    config, tensors, vae = subject.config, subject.tensors, subject.vae
    if case.fields:
        config = VAEConfig(**(config.model_dump() | dict(case.fields)))
        tensors = seeded_tensors(config, seed)
        assert subject.build is not None, "cases of other configs need a builder"
        vae = subject.build(config, tensors)
    clip = case.clip(config, seed).astype(subject.dtype).astype(np.float64)
    return Observed(case, clip, subject.call(case, clip, vae), Variant(config, tensors))


def _searched(
    observed: Sequence[Observed],
    dtype: str,
    until: float,
    clock: Callable[[], float],
    say: Callable[[Confirmed], Any],
) -> tuple[Search, float]:
    """A search to what rounding leaves; where nothing agrees with it, one to what float32 leaves, and how much that is.

    A port that computes in float32 somewhere agrees nowhere in float64, whatever else is wrong with it.
    """
    bar = ROUNDING["float32" if observed[0].parts[OUTPUT].dtype == np.float32 else dtype]
    search = Search(observed, bar, until, clock, say)
    if bar == ROUNDING["float64"] and not any(search.agrees_anywhere()):
        coarse = Search(observed, ROUNDING["float32"], until, clock, say)
        if any(coarse.agrees_anywhere()):
            coarse.run()
            if errors := coarse.errors():  # some case is explained whole, but for that rounding
                return coarse, max(errors)
    search.run()
    return search, 0.0


def _of_signature(operation: Operation, one: Confirmed) -> Finding:
    what = "" if one.part == OUTPUT else f" of {one.part}"
    without = "of another shape" if one.before == float("inf") else f"off by {number(one.before)}"
    share = "" if one.share > 1 - 1e-9 else f", in {100 * one.share:.0f} % of its values"
    says = one.signature.says
    if one.others:
        says += "; or, which no case tells apart: " + "; or ".join(other.says for other in one.others[:3])
    return Finding(
        kind="signature", cause=one.signature.name, headline=f"In {operation}, {says}.", operations=(operation,),
        tiled=one.signature.field in TILED, explains=len(one.acts),
        evidence=(
            f"The reference that does so gives the port's output{what} to {number(one.after)}{share} "
            f"({one.shown.name}); without it, {without}.",
            f"It acts in {operation} of {some(one.acts, '; ')}.",
        ),
    )  # fmt: skip


def _with_operation(finding: Finding, operation: Operation, one: Confirmed) -> Finding:
    """A finding whose cause acts in another operation as well."""
    both = (*finding.operations, operation)
    headline = finding.headline.replace(f"In {finding.operations[0]},", f"In {' and '.join(both)},", 1)
    evidence = (*finding.evidence, *_of_signature(operation, one).evidence)
    update = {"operations": both, "headline": headline, "evidence": evidence}
    return finding.model_copy(update=update | {"explains": finding.explains + len(one.acts)})


def _of_rounding(operation: Operation, search: Search, error: float) -> Finding:
    return Finding(
        kind="signature", cause="precision: float32", operations=(operation,), explains=len(search.observed),
        headline=f"In {operation}, something is computed in float32 of a model in float64.",
        evidence=(
            f"Every case is off by up to {number(error)} of its largest value, as rounding to float32 is; rounding to "
            "float64 leaves 1e-14.",
        ),
    )  # fmt: skip


def _of_broken(
    operation: Operation, broken: Sequence[_Broken], observed: Sequence[Observed]
) -> list[tuple[Finding, Case]]:
    """What a port raises, a finding for each message."""
    groups: dict[str, list[Case]] = {}
    for case, message in broken:
        groups.setdefault(message.splitlines()[0], []).append(case)
    works = f" It works with: {some([one.case.name for one in observed], '; ')}." if observed else ""
    return [
        (
            Finding(
                kind="raises", cause=f"{operation} raises", operations=(operation,), explains=len(cases),
                headline=f"{operation} fails: {message}",
                evidence=(f"With: {some([case.name for case in cases], '; ')}.{works}",),
            ),
            cases[0],
        )
        for message, cases in groups.items()
    ]  # fmt: skip


def _of_unexplained(operation: Operation, search: Search) -> Finding:
    """Where a port departs that no signature explains: the first block, or seen from outside."""
    departing = search.unexplained
    first = departing[0]
    names = {one.case.name for one in departing}
    agreeing = [one.case.name for one in search.observed if one.case.name not in names]
    expected = search.expected(first)
    evidence = [*where_apart(first.case, first.parts[OUTPUT], expected[OUTPUT], search.bar)]
    if _first_batch_agrees(first, expected[OUTPUT], search.bar):
        line = (
            "The first frame batch agrees: look at what is handed from one frame batch to the next, and at their size."
        )
        evidence.insert(0, line)
    rest = [one.case.name for one in departing[1:]]
    evidence.append(f"Departs as well: {'; '.join(rest)}." if rest else "No other case departs.")
    evidence.append(f"Agrees: {'; '.join(agreeing)}." if agreeing else "No case agrees.")
    beside = f" beside {many(len(search.confirmed), 'finding')} above" if search.confirmed else ""
    block = _block(first, expected, search.bar)
    blocks = [name for name in expected if name in first.parts and name != OUTPUT]
    if blocks and all(_agrees(first.parts[name], expected[name], search.bar) for name in blocks):
        evidence.insert(0, f"Every block agrees, up to the last, {blocks[-1]}: look at what comes after it.")
    if block:
        kind, cause = "block", block
        before = _before(block, first, expected)
        headline = f"In {operation}, {block} is the first block that departs ({first.case.name})."
        evidence.insert(0, f"{before}; its output is off by {number(off_by(first.parts[block], expected[block]))}.")
    else:
        kind, cause = "outside", f"{operation}, {first.case.name}"
        headline = f"{operation} departs in {len(departing)} of {many(len(search.observed), 'case')}{beside}, the "
        headline += f"simplest {first.case.name}; no signature that is known explains it."
    return Finding(
        kind=kind, cause=cause, headline=headline, operations=(operation,), evidence=tuple(evidence),
        explains=len(departing), tiled=all(one.case.settings.tile for one in departing),
    )  # fmt: skip


def _first_batch_agrees(one: Observed, expected: np.ndarray, bar: float) -> bool:
    """Whether what comes of a clip's first frame batch is right, where there are more."""
    encode, config = one.case.operation == "encode", one.variant.config
    together = one.case.settings.together or (ENCODED_TOGETHER if encode else DECODED_TOGETHER)
    cut = batches(one.case.size[1], together)
    frames = (encoded_frames if encode else decoded_frames)(cut[0].stop, config.temporal_levels)
    found = one.parts[OUTPUT]
    return len(cut) > 1 and found.shape == expected.shape and _agrees(found[:, :frames], expected[:, :frames], bar)


def _block(one: Observed, expected: dict[str, np.ndarray], bar: float) -> str:
    """The block that departs first, where that can only be the block: frames that go through together are known.

    Of more than one frame, the port's frame batches may be others than diffusers', which shows in the first norm, and
    its conv caches after the first frame batch: no block is to blame for either.
    """
    frames = one.case.size[1]
    default = ENCODED_TOGETHER if one.case.operation == "encode" else DECODED_TOGETHER
    if len(batches(frames, one.case.settings.together or default)) > 1 or one.case.size[0] > 1:
        return ""
    norms_agree = False
    for name in expected:
        if name == OUTPUT or name not in one.parts:
            continue
        if not _agrees(one.parts[name], expected[name], bar):
            return name if frames == 1 or norms_agree else ""
        norms_agree = norms_agree or ".resnets." in name
    return ""


def _before(block: str, one: Observed, expected: dict[str, np.ndarray]) -> str:
    names = [name for name in expected if name in one.parts and name != OUTPUT]
    index = names.index(block)
    if not index:
        return "Its input is what was given"
    return f"Its input agrees to {number(off_by(one.parts[names[index - 1]], expected[names[index - 1]]))}"


def _agrees(found: np.ndarray, expected: np.ndarray, bar: float) -> bool:
    scale = np.abs(expected).max(initial=0) or 1.0
    return found.shape == expected.shape and bool(np.all(np.abs(found - expected) <= bar * scale))


def where_apart(case: Case, found: np.ndarray, expected: np.ndarray, bar: float) -> list[str]:
    """Which frames, items, rows, columns and channels are off, in words."""
    if found.shape != expected.shape:
        return [f"Of {case.name} the output has the shape {found.shape}; diffusers' has {expected.shape}."]
    apart = np.abs(found.astype(np.float64) - expected) > bar * (np.abs(expected).max(initial=0) or 1.0)
    apart |= ~np.isfinite(found)
    lines = []
    if not np.isfinite(found).all():
        lines.append(f"{100 * float(np.mean(~np.isfinite(found))):.0f} % of its values are not finite.")
    elif not np.ptp(found):
        lines.append(f"It is {number(float(found.flat[0]))} throughout.")
    axes = ("item", "frame", "row", "column", "channel")
    for axis, what in enumerate(axes):
        off = np.flatnonzero(apart.any(axis=tuple(other for other in range(5) if other != axis)))
        if 0 < len(off) < found.shape[axis]:
            lines.append(f"Of {found.shape[axis]} {what}s, these are off: {_ranges(off)}; the others agree.")
    if not lines:
        lines.append("Every frame, row, column and channel is off.")
    if affine := _affine(found, expected, bar):
        lines.append(affine)
    worst, share = number(off_by(found, expected)), f"{100 * float(apart.mean()):.0f} %"
    return [f"Of {case.name} the output is off by up to {worst}, {share} of it.", *lines]


def _affine(found: np.ndarray, expected: np.ndarray, bar: float) -> str:
    """Whether an output is diffusers' times a number plus a number, in words."""
    if not np.isfinite(found).all() or not expected.std():
        return ""
    factor = float(np.mean((found - found.mean()) * (expected - expected.mean())) / expected.var())
    plus = float(found.mean() - factor * expected.mean())
    if not _agrees(found, factor * expected + plus, 10 * bar):
        return ""
    return f"It is diffusers' output times {factor:.6g} plus {plus:.3g}, to rounding."


def _ranges(indices: np.ndarray) -> str:
    """Whole numbers as ranges, counted from 0."""
    starts = [i for i in indices if i - 1 not in indices]
    ends = [i for i in indices if i + 1 not in indices]
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))
