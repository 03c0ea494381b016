"""The page of faults on trial: how many the suites caught, how soon; false alarms on unchanged code; mutants killed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from trials.figure import draw_faults
from trials.mutants_table import (
    equivalent_mutant_table,
    mutant_table,
    mutant_verdict,
    of_status,
    survivor_table,
)
from trials.results import Results, SoakRun, Trial, read_results
from twinvae.bench.drawing import Picture
from twinvae.bench.files import write_whole
from twinvae.bench.pages import many, shortened, table

PAGE = "faults"
KINDS = {"value": "faults of values", "cost": "faults of cost"}
SOAK_STATUSES = ("failed", "wrong", "regressed", "missing", "inconclusive", "improved")


class Tally(NamedTuple):
    """Of one kind, or class: how many were caught of those that some test should see."""

    caught: int
    tried: int

    def __str__(self) -> str:
        return f"{self.caught} of {self.tried}"


def write_page(report_dir: Path, platform: str) -> str:
    """Write the page and its figures, and give back its verdict; nothing where nothing was tried.

    Raises:
        ValueError: a line of the results is not valid; nothing is written then.
        OSError: the report folder cannot be written.
    """
    results = read_results(report_dir, platform)
    if not any(results):
        return ""
    folder = Path(report_dir) / platform
    pictures = draw_faults(results.trials)
    for picture in pictures:
        write_whole(folder / "figures" / picture.file, picture.content)
    write_whole(folder / f"{PAGE}.md", faults_page(platform, results, pictures))
    return verdict(results)


def faults_page(platform: str, results: Results, pictures: Sequence[Picture] = ()) -> str:
    """The page: verdict first, then what was missed, pictures, and every fault by class."""
    return _TEMPLATES.get_template("page.md.j2").render(platform=platform, results=results, pictures=pictures)


def tally(trials: Sequence[Trial]) -> Tally:
    visible = [trial for trial in trials if not trial.equivalent]
    return Tally(sum(trial.status == "caught" for trial in visible), len(visible))


def of_kind(trials: Sequence[Trial], kind: str) -> list[Trial]:
    return [trial for trial in trials if trial.kind == kind]


def median_seconds(trials: Sequence[Trial]) -> float | None:
    """From the start of a process to its alarm, imports included."""
    seconds = [trial.seconds for trial in trials if trial.status == "caught"]
    return statistics.median(seconds) if seconds else None


def verdict(results: Results) -> str:
    """What it comes to, in a sentence or a few."""
    trials, runs = results.trials, results.soak
    parts = [f"{name} caught: {tally(chosen)}" for kind, name in KINDS.items() if (chosen := of_kind(trials, kind))]
    middle = median_seconds(trials)
    if middle is not None:
        parts.append(f"median {middle:.0f} s to the first alarm")
    sentences = [f"{'; '.join(parts).capitalize()}."] if parts else []
    if runs:
        alarms = sum(run.false_alarms for run in runs)
        sentences.append(
            f"Unchanged code raised {many(alarms, 'alarm')} in {many(len(runs), 'run')} of {soak_extent(runs)}."
        )
    return " ".join([*sentences, mutant_verdict(results.mutants)]).strip()


def missed(trials: Sequence[Trial]) -> list[Trial]:
    """What no test saw and some should, or what could not be tried, values before cost."""
    found = [trial for trial in trials if trial.status != "caught" and not trial.equivalent]
    return sorted(found, key=lambda trial: (trial.status != "missed", trial.kind != "value", trial.group, trial.fault))


def missed_table(trials: Sequence[Trial]) -> str:
    rows = [
        [f"`{t.fault}`", t.kind, t.status, t.models, t.expected, shortened(t.what, 160), ", ".join(t.files)]
        for t in missed(trials)
    ]
    return table(["fault", "kind", "", "what it models", "should be seen by", "why", "file"], rows)


def equivalent_table(trials: Sequence[Trial]) -> str:
    rows = [[f"`{t.fault}`", t.status, t.models, t.equivalent] for t in trials if t.equivalent]
    return table(["fault", "", "what it models", "why no test can see it"], rows)


def group_table(trials: Sequence[Trial]) -> str:
    """A row per class."""
    rows = []
    for group in groups(trials):
        chosen = [trial for trial in trials if trial.group == group]
        middle = median_seconds(chosen)
        rows.append([group, *tally(chosen), "" if middle is None else f"{middle:.1f}"])
    return table(["class", "caught", "tried", "median seconds"], rows)


def groups(trials: Sequence[Trial]) -> list[str]:
    return sorted({trial.group for trial in trials})


def trial_table(trials: Sequence[Trial], group: str) -> str:
    """Every fault of a class, those that were missed first."""
    chosen = sorted((t for t in trials if t.group == group), key=lambda t: (t.status == "caught", t.fault))
    rows = [[f"`{t.fault}`", t.models, t.status, _by(t), f"{t.seconds:.1f}"] for t in chosen]
    return table(["fault", "what it models", "", "caught by", "seconds"], rows)


def _by(trial: Trial) -> str:
    if trial.status != "caught":
        return ""
    words = f" ({trial.evidence})" if trial.evidence else ""
    return f"`{trial.test.removeprefix('suites/')}`{words}" if trial.test else trial.evidence


def suite_table(trials: Sequence[Trial]) -> str:
    """Which suites raised the alarms that they were expected to raise."""
    caught = [trial for trial in trials if trial.status == "caught"]
    names = sorted({trial.suite for trial in caught} | {trial.expected for trial in trials})
    rows = []
    for name in names:
        expected = [trial for trial in trials if trial.expected == name and not trial.equivalent]
        first = [trial for trial in caught if trial.suite == name]
        exact = sum(trial.kind == "cost" and trial.evidence == "exact" for trial in first)
        by_itself = sum(trial.suite == name for trial in expected if trial.status == "caught")
        rows.append([name, *(len(of_kind(first, kind)) for kind in KINDS), exact, len(expected), by_itself])
    headings = ["suite", "first to an alarm: values", "cost", "cost, by exact evidence", "faults meant for it",
                "of these, raised by it"]  # fmt: skip
    return table(headings, rows)


def soak_extent(runs: Sequence[SoakRun]) -> str:
    """What the runs took of the suites."""
    shares = [100 * run.share for run in runs]
    if min(shares) == 100:
        return "all tests"
    drawn = f"{min(shares):g}" if min(shares) == max(shares) else f"{min(shares):g} to {max(shares):g}"
    return f"{drawn} % of the tests"


def soak_table(runs: Sequence[SoakRun]) -> str:
    """Verdicts on unchanged code, with and without load."""
    rows = []
    for name, loaded in (("quiet", False), ("all cores loaded", True)):
        chosen = [run for run in runs if run.loaded == loaded]
        counts = [sum(run.counts.get(status, 0) for run in chosen) for status in SOAK_STATUSES]
        ended = sum(run.ended == "finished" for run in chosen)
        values = sum(count for run in chosen for status, count in run.counts.items() if status != "failed")
        rows.append([name, len(chosen), ended, values, *counts])
    return table(["machine", "runs", "finished", "values judged", *SOAK_STATUSES], rows)


def soak_alarms(runs: Sequence[SoakRun]) -> list[str]:
    """What unchanged code was blamed for, and how the run can be repeated."""
    return [
        f"run {run.order} (seed {run.seed}, {run.clip}, {'loaded' if run.loaded else 'quiet'}): {shortened(alarm, 200)}"
        for run in runs
        for alarm in run.alarms
    ]


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    keep_trailing_newline=True,
)  # fmt: skip
_TEMPLATES.globals.update({
    function.__name__: function
    for function in (
        equivalent_mutant_table, equivalent_table, group_table, groups, missed, missed_table, mutant_table, of_status,
        soak_alarms, soak_extent, soak_table, suite_table, survivor_table, tally, trial_table, verdict,
    )
})  # fmt: skip
