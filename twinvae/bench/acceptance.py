"""Accepting a run's numbers as the baseline: what that changes, and what speaks against it."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from twinvae.bench.baselines import Change, Known, baseline_path, changed_inputs, difference, updated, write_baseline
from twinvae.bench.pages import Judged, many
from twinvae.bench.provenance import CHANGES, COMMIT, UNKNOWN
from twinvae.bench.records import RunData
from twinvae.bench.verdicts import Verdict, judge, number

MOST_SHOWN = 20


def accept(
    judged: Judged, baseline_dir: Path, yes: bool = False, force: bool = False, known: Known | None = None
) -> int:
    """Show what a run changes in its baseline, and write that where somebody agrees.

    Args:
        yes: do not ask.
        force: accept failures, too; never a part of a suite, nor code that nobody can find again.
        known: why values that are past their limit are accepted, and who is to mend them.
    Returns:
        An exit status: 0, or 2 where nothing could be written.
    """
    run = judged.data.run
    path = baseline_path(baseline_dir, run.platform, run.suite)
    past = past_limits(judged)
    new = updated(judged.baseline, judged.data, {v.key for v in past}, known)
    print(f"\n{path}: the run of {run.date}, commit {run.commit}")
    print(*difference_lines(judged, difference(judged.baseline, new)), sep="\n")
    barred, failures = unfit(judged.data), [] if force else failing(judged, past, known is not None)
    if barred or failures:
        advice = [] if barred else ["Run the suite again, or accept it as it is with --force."]
        print("Not accepted:", *barred, *failures, *advice, sep="\n  ")
        return 2
    if (agreed := yes or asked("Accept this as the baseline?")) is None:
        return 2
    if agreed:
        write_baseline(path, new)
        print(f"Wrote {path}: {len(new.entries):,} values.")
    return 0


def asked(question: str) -> bool | None:
    """What somebody at the terminal says; None where there is nobody to ask. A no is said to have written nothing."""
    if not sys.stdin.isatty():
        print("Nothing written: nobody to ask. Add --yes to agree.")
        return None
    agreed = input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    if not agreed:
        print("Nothing written.")
    return agreed


def unfit(data: RunData) -> list[str]:
    """Why a run can be neither a baseline nor a published page: nobody could measure the same again."""
    reasons, run = [], data.run
    if data.interrupted:
        reasons.append("The run was interrupted: run the suite again, to its end.")
    elif not data.complete:
        reasons.append("Only a part of the suite was run: run all that --backend, --dtype and the like leave of it.")
    if run.debugged:
        reasons.append("It was run with --debug-nans, which makes other programs and other times.")
    if run.commit == UNKNOWN:
        reasons.append(f"Its commit is not known: run in a git checkout, or give --commit ID (or set {COMMIT}).")
    for what, commit in {"TwinVAE": run.commit, **run.sources}.items():
        if commit.endswith(CHANGES) and (what == "TwinVAE" or commit != run.commit):
            reasons.append(f"It is of uncommitted code of {what}, {commit}: commit, and run the suite again.")
    return reasons


def past_limits(judged: Judged) -> list[Verdict]:
    """What fails whatever a baseline says."""
    return [v for v in judged.verdicts if v.record and judge(v.record).failing]


def failing(judged: Judged, past: Sequence[Verdict], known: bool = False) -> list[str]:
    """Why a run that is whole should all the same not become the baseline.

    Args:
        past: values that are past their limit.
        known: whether those are accepted, and so the tests that they failed.
    """
    reasons = []
    accepted = {v.record.test for v in past} if known else set()
    failures = [failure for failure in judged.data.failures if failure.test not in accepted]
    if failures:
        reasons.append(f"{many(len(failures), 'test')} failed; the first: {failures[0].test}")
    if past and not known:
        reasons.append(
            f"{many(len(past), 'value')} past a limit, which no baseline changes; the first: {past[0].key}. "
            "Where that cannot be mended now, say why and who will: --known REASON --owner WHO"
        )
    return reasons


def difference_lines(judged: Judged, changes: Sequence[Change]) -> list[str]:
    """What accepting the run changes: new and removed values counted, changed ones listed, the largest first.

    Those that got worse stand before those that did not, however much these improved.
    """
    if not changes:
        return ["  no value changes"]
    inputs = changed_inputs(judged.baseline.runs, judged.data.run) if judged.baseline else []
    lines = [f"  {change}" for change in inputs]
    for word, sign, chosen in (
        ("new", "+", [change for change in changes if change.before is None]),
        ("removed", "-", [change for change in changes if change.after is None]),
    ):
        groups = Counter((c.key.metric, c.key.backend, c.key.dtype) for c in chosen)
        lines += [f"  {sign} {count:4} {word}: {' '.join(filter(None, key))}" for key, count in sorted(groups.items())]
    better = {record.key: record.better for record in judged.data.records}
    improved = {change: _improved(change, better.get(change.key, "equal")) for change in changes}
    changed = sorted((c for c in changes if c.before and c.after), key=lambda c: (improved[c], -_size(c), c.key))
    for change in changed[:MOST_SHOWN]:
        before, after = change.before.value, change.after.value
        factor = f" ({after / before:.3g}x)" if before and after is not None else ""
        lines.append(f"  ~ {change.key}: {number(before)} -> {number(after)}{factor}")
    for word, rest in (
        ("got worse by", [c for c in changed[MOST_SHOWN:] if not improved[c]]),
        ("improved by", [c for c in changed[MOST_SHOWN:] if improved[c]]),
    ):
        if rest:
            lines.append(f"  ~ and {len(rest)} more that {word} at most {_size(rest[0]):.3g}x")
    return lines


def _improved(change: Change, better: str) -> bool:
    """Whether a changed value became better for sure: what no direction is known of, or is no number, did not."""
    if not change.before or not change.after or change.before.value is None or change.after.value is None:
        return False
    before, after = change.before.value, change.after.value
    return {"lower": after < before, "higher": after > before}.get(better, False)


def _size(change: Change) -> float:
    """By what factor a value changed, up or down; infinite where there is no factor to give."""
    before, after = change.before.value, change.after.value
    if not before or not after or not math.isfinite(before) or not math.isfinite(after) or before * after < 0:
        return math.inf
    return max(after / before, before / after)
