"""What trials, soak runs and mutants came to: one line of JSON each, appended as they come."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from twinvae.bench.jsonl import describe

TRIALS, SOAK, MUTANTS = "faults.jsonl", "soak.jsonl", "mutants.jsonl"
# What a process under `trials.alarm` is told: the file to write its outcome to, when it was started, the seconds
# after which it begins no further test, the test that it begins with, and the seconds of those before, which count.
PLACE, STARTED, LASTS = "TWINVAE_ALARM", "TWINVAE_STARTED", "TWINVAE_LASTS"
FIRST, SPENT = "TWINVAE_FIRST", "TWINVAE_SPENT"

Status = Literal["caught", "missed", "stale", "hung", "broken"]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Outcome(_Line):
    """How a pytest process under `trials.alarm` ended: at the first alarm, or clean.

    Attributes:
        status: "alarm"; "clean"; "broken" where tests could not be collected or a module not be imported.
        what: the first line of the failure, or the value that got worse and why.
        evidence: what raised the alarm: a failed test, a record of a kind, or the summary of the whole run.
        seconds: from the start of the process, with those of the tests that were left out before its first one.
    """

    status: Literal["alarm", "clean", "broken"]
    seconds: float
    suite: str = ""
    test: str = ""
    what: str = ""
    evidence: Literal["", "failed test", "exact", "ratio", "absolute", "summary"] = ""


class Trial(_Line):
    """One fault, and what the quick form of the suites made of it; its own fields are the catalogue's.

    Attributes:
        expected: the suite that should have noticed.
        seconds: to the alarm; for what raised none, of the whole trial.
        suite, test, what, evidence: of the alarm (see `Outcome`).
    """

    fault: str
    group: str
    kind: Literal["value", "cost"]
    models: str
    files: tuple[str, ...]
    expected: str
    equivalent: str = ""
    status: Status
    seconds: float
    suite: str = ""
    test: str = ""
    what: str = ""
    evidence: str = ""
    date: str = ""
    commit: str = ""


class SoakRun(_Line):
    """One run of the suites on unchanged code.

    Attributes:
        order: seed of the tests' order.
        seed: of weights and inputs.
        clip: its label.
        share: of the tests, drawn at random.
        ended: "finished", or "hung" where it was killed after the time limit, or "broken".
        counts: verdicts of each status; "failed" is of tests.
        alarms: what was wrong, the first of it.
    """

    order: int
    seed: int
    clip: str
    loaded: bool
    suites: tuple[str, ...]
    share: float = 1.0
    ended: Literal["finished", "hung", "broken"]
    seconds: float
    counts: dict[str, int]
    alarms: tuple[str, ...] = ()
    date: str = ""
    commit: str = ""

    @property
    def false_alarms(self) -> int:
        return sum(self.counts.get(status, 0) for status in ("wrong", "regressed", "missing", "failed"))


class MutantTrial(_Line):
    """One mutant, and what became of it.

    Attributes:
        operator, occurrence: of the tool that made it, counted in the file.
        before, after: the changed lines, without indents and line ends.
        status: "killed"; "hung" where a test did not end, which kills it as well; "survived"; "equivalent" where the
            list says that no test can see it, and why, so that it was not run.
        test, what: what killed it, or how far the survivor came.
    """

    package: str
    file: str
    line: int
    operator: str
    occurrence: int
    before: str
    after: str
    status: Literal["killed", "hung", "survived", "equivalent"]
    seconds: float = 0.0
    test: str = ""
    what: str = ""
    reason: str = ""
    date: str = ""
    commit: str = ""

    @property
    def key(self) -> tuple[str | int, ...]:
        return self.file, self.line, self.operator, self.occurrence, self.before, self.after


Line = TypeVar("Line", bound=_Line)


class Results(NamedTuple):
    """Everything under `<report-dir>/<platform>/records/trials`: the last of each fault and mutant, every soak run."""

    trials: tuple[Trial, ...]
    soak: tuple[SoakRun, ...]
    mutants: tuple[MutantTrial, ...] = ()


def results_folder(report_dir: Path, platform: str) -> Path:
    """A folder of its own: the records' folder holds a file per suite, each beginning with a run."""
    return Path(report_dir) / platform / "records" / "trials"


def append(path: Path, line: _Line) -> None:
    """Put a line on disk, so that an interruption loses nothing that was found."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(line.model_dump_json() + "\n")


def read_lines(path: Path, kind: type[Line]) -> list[Line]:
    """Every line of a file, none where there is no file; a last line that was cut short is left out.

    Raises:
        ValueError: a line that is not valid; the message names file and line.
    """
    if not path.exists():
        return []
    content = path.read_text(encoding="utf-8", errors="replace")
    texts, lines = content.splitlines(), []
    adapter = TypeAdapter(kind)
    for number, text in enumerate(texts, 1):
        try:
            lines.append(adapter.validate_json(text))
        except ValidationError as error:
            if number == len(texts) and not content.endswith("\n"):
                break
            raise ValueError(f"{path}, line {number}: {describe(error)}; delete the file and run again") from None
    return lines


def read_results(report_dir: Path, platform: str) -> Results:
    folder = results_folder(report_dir, platform)
    last = {trial.fault: trial for trial in read_lines(folder / TRIALS, Trial)}
    mutants = {mutant.key: mutant for mutant in read_lines(folder / MUTANTS, MutantTrial)}
    return Results(tuple(last.values()), tuple(read_lines(folder / SOAK, SoakRun)), tuple(mutants.values()))
