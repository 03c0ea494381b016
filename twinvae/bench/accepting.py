"""`python -m twinvae.bench.accepting report | baseline`: write the pages again, or accept a run's numbers as the baseline."""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from twinvae.bench.baselines import (
    Change,
    baseline_path,
    changed_inputs,
    difference,
    updated,
    write_baseline,
)
from twinvae.bench.pages import Judged, many
from twinvae.bench.places import BASELINES, LOCAL_REPORTS
from twinvae.bench.report import judge_suites, write_report
from twinvae.bench.verdicts import judge, number

MOST_SHOWN = 20


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 well, 1 something got worse, 2 nothing could be done."""
    options = _parser().parse_args(arguments)
    try:
        platforms = [options.platform] if options.platform else _platforms(options.report_dir)
        return max(options.command(options, platform) for platform in platforms)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m twinvae.bench.accepting", description=__doc__)
    commands = parser.add_subparsers(required=True)
    report = commands.add_parser("report", help="write the pages of the last run of every suite")
    report.set_defaults(command=_report)
    baseline = commands.add_parser("baseline", help="show what the last runs change in the baselines, and accept it")
    baseline.set_defaults(command=_baseline)
    baseline.add_argument("suites", nargs="*", help="the suites to accept; default: all that have a run")
    baseline.add_argument("--yes", action="store_true", help="write without asking")
    baseline.add_argument("--force", action="store_true", help="accept a run that was interrupted or has failures")
    for command in (report, baseline):
        command.add_argument("--platform", help="default: every platform that has a run")
        command.add_argument("--report-dir", type=Path, default=LOCAL_REPORTS)
        command.add_argument("--baseline-dir", type=Path, default=BASELINES)
    return parser


def _platforms(report_dir: Path) -> list[str]:
    found = sorted({path.parent.parent.name for path in report_dir.glob("*/records/*.jsonl")})
    if not found:
        raise FileNotFoundError(f"no records in {report_dir}: run a suite first, such as `nox -s parity`")
    return found


def _report(options: argparse.Namespace, platform: str) -> int:
    summary = write_report(options.report_dir, options.baseline_dir, platform)
    Console().print(summary.table)
    print(*summary.lines, f"The report: {summary.index}", sep="\n")
    return int(summary.failed)


def _baseline(options: argparse.Namespace, platform: str) -> int:
    suites = judge_suites(options.report_dir, options.baseline_dir, platform)
    unknown = set(options.suites) - {judged.suite for judged in suites}
    if unknown:
        raise ValueError(f"no run of {', '.join(sorted(unknown))} on {platform}: run `nox -s {min(unknown)}` first")
    return max(_accept(judged, options) for judged in suites if judged.suite in options.suites or not options.suites)


def _accept(judged: Judged, options: argparse.Namespace) -> int:
    run = judged.data.run
    path = baseline_path(options.baseline_dir, run.platform, run.suite)
    new = updated(judged.baseline, judged.data)
    print(f"\n{path}: the run of {run.date}, commit {run.commit}")
    print(*difference_lines(judged, difference(judged.baseline, new)), sep="\n")
    doubts = reasons_against(judged)
    if doubts and not options.force:
        print("Not accepted:", *doubts, "Run the suite again, or accept it as it is with --force.", sep="\n  ")
        return 2
    if not options.yes:
        if not sys.stdin.isatty():
            print("Nothing written: nobody to ask. Add --yes to accept this.")
            return 2
        if input("Accept this as the baseline? [y/N] ").strip().lower() not in ("y", "yes"):
            print("Nothing written.")
            return 0
    write_baseline(path, new)
    print(f"Wrote {path}: {len(new.entries):,} values.")
    return 0


def reasons_against(judged: Judged) -> list[str]:
    """Why a run should not become the baseline."""
    reasons = []
    if judged.data.interrupted:
        reasons.append("The run was interrupted.")
    if judged.data.run.debugged:
        reasons.append("It was run with --debug-nans, which makes other programs and other times.")
    if judged.data.failures:
        reasons.append(f"{many(len(judged.data.failures), 'test')} failed; the first: {judged.data.failures[0].test}")
    past = [v for v in judged.verdicts if v.record and judge(v.record).failing]
    if past:
        reasons.append(f"{many(len(past), 'value')} past a limit, which no baseline changes; the first: {past[0].key}")
    return reasons


def difference_lines(judged: Judged, changes: Sequence[Change]) -> list[str]:
    """What accepting the run changes: new and removed values counted, changed ones listed, the largest first."""
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
    changed = sorted((c for c in changes if c.before and c.after), key=lambda c: (-_size(c), c.key))
    for change in changed[:MOST_SHOWN]:
        before, after = change.before.value, change.after.value
        factor = f" ({after / before:.3g}x)" if before and after is not None else ""
        lines.append(f"  ~ {change.key}: {number(before)} -> {number(after)}{factor}")
    if len(changed) > MOST_SHOWN:
        lines.append(
            f"  ~ and {len(changed) - MOST_SHOWN} more that change less, at most {_size(changed[MOST_SHOWN]):.3g}x"
        )
    return lines


def _size(change: Change) -> float:
    """By what factor a value changed, up or down; infinite where there is no factor to give."""
    before, after = change.before.value, change.after.value
    if not before or not after or not math.isfinite(before) or not math.isfinite(after) or before * after < 0:
        return math.inf
    return max(after / before, before / after)


if __name__ == "__main__":
    sys.exit(main())
