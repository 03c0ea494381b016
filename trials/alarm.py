"""A pytest plugin: the first failed test, or the first exact value that got worse, is written down and ends the run.

Ratios and absolute times raise no alarm: whether they got worse is for the speed suite's gate to prove.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict

from twinvae.bench.baselines import baseline_path, read_baseline
from twinvae.bench.files import write_whole
from twinvae.bench.options import OPTIONS
from twinvae.bench.places import suite_of
from twinvae.bench.plugin import FILES, SUMMARY
from twinvae.bench.records import read_run
from twinvae.bench.verdicts import judge_run

# A module that cannot be imported, or that names what it does not hold, is no port that somebody would try out.
NO_PORT = (ImportError, SyntaxError, NameError)


class Outcome(BaseModel):
    """How a pytest process ended: at the first alarm, or clean.

    Attributes:
        status: "alarm"; "clean"; "broken" where tests could not be collected or a module not be imported.
        what: the first line of the failure, or the value that got worse and why.
        evidence: what raised the alarm: a failed test, an exact value, or the summary of the whole run.
        seconds: from the start of the process, with those of the tests that were left out before its first one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Literal["alarm", "clean", "broken"]
    seconds: float
    suite: str = ""
    test: str = ""
    what: str = ""
    evidence: Literal["", "failed test", "exact", "summary"] = ""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("trials")
    group.addoption("--alarm", type=Path, required=True, metavar="FILE", help="where the outcome is written")
    group.addoption("--started", type=float, required=True, help="when the process was started, since the epoch")
    group.addoption("--spent", type=float, default=0.0, help="seconds of the tests that were left out, which count")
    group.addoption("--lasts", type=float, default=float("inf"), help="seconds after which no further test is begun")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Alarm(config))


class Alarm:
    """The hooks of one run, and its outcome once there is one."""

    def __init__(self, config: pytest.Config) -> None:
        self.config, self.outcome = config, None

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            lines = report.longreprtext.strip().splitlines() or [""]
            self._end("broken", test=report.nodeid, what=lines[-1])

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        report = yield
        where = {"suite": suite_of(item.path) or "", "test": item.nodeid}
        if self.outcome is None and (worse := self.worse(where["suite"])):  # it says more than a failure
            self._end("alarm", item.session, what=worse, evidence="exact", **where)
        elif self.outcome is None and report.failed:
            raised = call.excinfo.value if call.excinfo else None
            what = str(raised).strip().splitlines()[:1] or [report.when]
            told = isinstance(raised, AssertionError | pytest.fail.Exception)
            line = what[0] if told else f"{type(raised).__name__}: {what[0]}"
            status = "broken" if isinstance(raised, NO_PORT) else "alarm"
            self._end(status, item.session, what=line, evidence="failed test", **where)
        return report

    def worse(self, suite: str) -> str:
        """The first exact value that a suite has recorded and that got worse, and why."""
        file, options = self.config.stash.get(FILES, {}).get(suite), self.config.stash.get(OPTIONS, None)
        if file is None or options is None:
            return ""
        baseline = read_baseline(baseline_path(options.baseline_dir, options.platform, suite))
        verdicts = judge_run(read_run(file.path), baseline)
        worse = (one for one in verdicts if one.failing and one.record and one.record.kind == "exact")
        return next((f"{one.key}: {one.reason}" for one in worse), "")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, Any, Any]:
        result = yield
        if nextitem is not None and self.outcome is None and self._elapsed > self.config.option.lasts:
            what = f"stopped after {self.config.option.lasts:.0f} s"
            self._end("clean", item.session, test=item.nodeid, what=what)
        return result

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, exitstatus: int) -> None:
        """Without an alarm: clean, unless the summary of the whole run says otherwise."""
        if self.outcome is None and exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            summary = self.config.stash.get(SUMMARY, None)
            failed = summary.failed if summary else exitstatus != pytest.ExitCode.OK
            said = " ".join(summary.lines) if summary else "no test failed"
            self._end("alarm" if failed else "clean", what=said, evidence="summary" if failed else "")

    @property
    def _elapsed(self) -> float:
        return time.time() - self.config.option.started

    def _end(self, status: str, session: pytest.Session | None = None, **fields: str) -> None:
        seconds = round(self._elapsed + self.config.option.spent, 2)
        self.outcome = Outcome(status=status, seconds=seconds, **fields)
        write_whole(self.config.option.alarm, self.outcome.model_dump_json())
        if session:
            session.shouldstop = self.outcome.what or "alarm"
