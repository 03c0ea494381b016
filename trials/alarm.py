"""A pytest plugin: the first failed test, or the first exact value that got worse, is written down and ends the run.

Loaded in a process of its own with `-p trials.alarm`; the environment says where to write, when the process was
started, which test is the first, and after how many seconds a run without an alarm is over. Ratios and absolute times
raise no alarm: whether they got worse is for the speed suite's gate to prove.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import twinvae
from suites.speed import cases, measure
from trials.order import in_order
from trials.results import FIRST, LASTS, PLACE, SPENT, STARTED, Outcome
from twinvae.bench.baselines import Baseline, baseline_path, read_baseline
from twinvae.bench.files import write_whole
from twinvae.bench.options import OPTIONS
from twinvae.bench.plugin import FILES, SUMMARY, suite_of
from twinvae.bench.records import Record, Run
from twinvae.bench.verdicts import Verdict, doubt, incomparable, judge

OUTCOME = pytest.StashKey[Outcome]()
READ = pytest.StashKey[dict[str, int]]()
# A module that cannot be imported, or that names what it does not hold, is no port that somebody would try out.
NO_PORT = (ImportError, SyntaxError, NameError)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    config.stash[READ] = {}
    if not Path(twinvae.__file__).is_relative_to(Path.cwd()):
        raise pytest.UsageError(f"twinvae is imported from {Path(twinvae.__file__).parent}, and not from {Path.cwd()}")
    # Nothing is judged by its time here, and so once is enough.
    cases.SMALL = tuple(plan._replace(rounds=1, eager_rounds=1) for plan in cases.SMALL)
    measure.PATIENCE = 0.0


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    by_id = {item.nodeid: item for item in items}
    chosen = in_order(list(by_id), config.stash[OPTIONS].backends)
    if (first := os.environ.get(FIRST)) in chosen:
        chosen = chosen[chosen.index(first) :]
    config.hook.pytest_deselected(items=[by_id[nodeid] for nodeid in by_id.keys() - set(chosen)])
    items[:] = [by_id[nodeid] for nodeid in chosen]


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        _write(_outcome("broken", test=report.nodeid, what=_last_line(report.longreprtext)))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if OUTCOME not in item.config.stash and (outcome := _alarm(item, call, report)):
        item.config.stash[OUTCOME] = outcome
        _write(outcome)
        item.session.shouldstop = outcome.what or "alarm"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, Any, Any]:
    result = yield
    config, lasts = item.config, float(os.environ.get(LASTS, "inf"))
    if nextitem is not None and OUTCOME not in config.stash and _elapsed() > lasts:
        config.stash[OUTCOME] = _outcome("clean", test=item.nodeid, what=f"stopped after {lasts:.0f} s")
        _write(config.stash[OUTCOME])
        item.session.shouldstop = "no time left"
    return result


def _alarm(item: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport) -> Outcome | None:
    """What a phase of a test gives reason for; values before failures, because they say more."""
    where = {"suite": suite_of(item.path) or "", "test": item.nodeid}
    for verdict in _new_verdicts(item):
        if verdict.failing and verdict.record.kind == "exact":
            what = f"{verdict.key}: {verdict.reason}"
            return _outcome("alarm", what=what, evidence="exact", **where)
    if report.failed:
        raised = call.excinfo.value if call.excinfo else None
        what = str(raised).strip().splitlines()[:1] or [report.when]
        told = isinstance(raised, AssertionError | pytest.fail.Exception)
        line = what[0] if told else f"{type(raised).__name__}: {what[0]}"
        status = "broken" if isinstance(raised, NO_PORT) else "alarm"
        return _outcome(status, what=line, evidence="failed test", **where)
    return None


def _new_verdicts(item: pytest.Item) -> Iterator[Verdict]:
    """Verdicts on what an item's suite has recorded since they were last asked for, against the stored baseline."""
    suite = suite_of(item.path) or ""
    file, options, read = item.config.stash[FILES].get(suite), item.config.stash[OPTIONS], item.config.stash[READ]
    if file is None:
        return
    lines = file.path.read_text(encoding="utf-8").splitlines()
    run, baseline = Run.model_validate_json(lines[0]), _baseline(options.baseline_dir, options.platform, suite)
    for line in lines[max(1, read.get(suite, 0)) :]:
        if line.startswith('{"type":"record"'):
            record = Record.model_validate_json(line)
            entry = baseline.by_key.get(record.key) if baseline else None
            source = baseline.runs[entry.run] if entry else run
            apart = incomparable(run, source, record.kind, record.of_compiler)
            yield judge(record, entry, apart, doubt(run, source, record.kind))
    read[suite] = len(lines)


@cache
def _baseline(folder: Path, platform: str, suite: str) -> Baseline | None:
    return read_baseline(baseline_path(folder, platform, suite))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Without an alarm: clean, unless the summary of the whole run says otherwise."""
    config = session.config
    if OUTCOME in config.stash or exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        return
    summary = config.stash.get(SUMMARY, None)
    said = " ".join(summary.lines) if summary else "no test was run"
    failed = summary is None or summary.failed
    _write(_outcome("alarm" if failed else "clean", what=said, evidence="summary" if failed else ""))


def _outcome(status: str, **fields: str) -> Outcome:
    return Outcome(status=status, seconds=round(_seconds(), 2), **fields)


def _seconds() -> float:
    """What a run that began with the first test of all would have taken so far."""
    return _elapsed() + float(os.environ.get(SPENT, 0))


def _elapsed() -> float:
    """Since the process was started."""
    return time.time() - float(os.environ.get(STARTED, time.time()))


def _write(outcome: Outcome) -> None:
    write_whole(Path(os.environ[PLACE]), outcome.model_dump_json())


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else ""
