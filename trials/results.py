"""What trials and soak runs came to: one line of JSON each, appended as they come."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Generic, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict

from trials.alarm import Outcome
from trials.catalogue import Fault
from trials.mutation import Mutant
from twinvae.bench.jsonl import JsonLines
from twinvae.bench.verdicts import FAILING

Status = Literal["caught", "missed", "stale", "hung", "broken", "equivalent"]
Planted = TypeVar("Planted", Fault, Mutant)


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Trial(_Line, Generic[Planted]):
    """A fault or a mutant, and what the tests that it met made of it.

    Attributes:
        status: "hung" where a test did not end; "stale" where its place is gone; "equivalent" where it was not run
            because no test can see it.
        outcome: of the pytest process; where there was none, its seconds are those of the trial.
    """

    planted: Planted
    status: Status
    outcome: Outcome
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
    counts: Mapping[str, int]
    alarms: tuple[str, ...] = ()
    date: str = ""
    commit: str = ""

    @property
    def setting(self) -> str:
        """How the run can be repeated."""
        return f"run {self.order} (seed {self.seed}, {self.clip}, {'loaded' if self.loaded else 'quiet'})"

    @property
    def false_alarms(self) -> int:
        return sum(self.counts.get(status, 0) for status in (*FAILING, "failed"))


class Results(NamedTuple):
    """The stores under `<report-dir>/<platform>/records/trials`."""

    faults: JsonLines[Trial[Fault]]
    mutants: JsonLines[Trial[Mutant]]
    soak: JsonLines[SoakRun]


def results(report_dir: Path, platform: str) -> Results:
    """A folder of its own: the records' folder holds a file per suite, each beginning with a run."""
    kinds = {"faults": Trial[Fault], "mutants": Trial[Mutant], "soak": SoakRun}
    folder, cure = Path(report_dir) / platform / "records" / "trials", "delete the file and run again"
    return Results(*(JsonLines(folder / f"{name}.jsonl", kind, cure) for name, kind in kinds.items()))
