"""The page of faults on trial: how many the suites caught, how soon; false alarms on unchanged code; mutants killed."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from trials.catalogue import Fault
from trials.mutation import Mutant
from trials.results import Planted, SoakRun, Trial, results
from twinvae.bench.files import write_whole
from twinvae.bench.pages import many, shortened, table
from twinvae.bench.verdicts import FAILING

PAGE = "faults"
KINDS = {"value": "faults of values", "cost": "faults of cost"}
SOAK_STATUSES = ("failed", *FAILING, "inconclusive", "improved")
MUTANT_COLUMNS = ("tried", "killed", "of these hung", "equivalent", "survived", "killed, of the others")
Faults, Mutants = Sequence[Trial[Fault]], Sequence[Trial[Mutant]]


def write_page(report_dir: Path, platform: str) -> str:
    """Write the page, and give back its verdict; nothing where nothing was tried.

    Raises:
        ValueError: a line of the results is not valid; nothing is written then.
        OSError: the report folder cannot be written.
    """
    stores = results(report_dir, platform)
    faults, mutants, runs = last_of_each(stores.faults.read()), last_of_each(stores.mutants.read()), stores.soak.read()
    if not (faults or mutants or runs):
        return ""
    said = verdict(faults, runs, mutants)
    page = _TEMPLATES.get_template("page.md.j2")
    content = page.render(platform=platform, verdict=said, faults=faults, runs=runs, mutants=mutants)
    write_whole(Path(report_dir) / platform / f"{PAGE}.md", content)
    return said


def last_of_each(trials: Sequence[Trial[Planted]]) -> list[Trial[Planted]]:
    return list({trial.planted.name: trial for trial in trials}.values())


def verdict(faults: Faults, runs: Sequence[SoakRun], mutants: Mutants) -> str:
    """What it comes to, in a sentence or a few."""
    of_kind = {name: [one for one in faults if one.planted.kind == kind] for kind, name in KINDS.items()}
    parts = ["{} caught: {} of {}".format(name, *tally(chosen)) for name, chosen in of_kind.items() if chosen]
    if any(one.status == "caught" for one in faults):
        parts.append(f"median {median_seconds(faults):.0f} s to the first alarm")
    sentences = [f"{'; '.join(parts).capitalize()}."] if parts else []
    if early := sum(one.planted.before_case for one in faults):
        sentences.append(f"{many(early, 'fault')} planted before the case existed that catches it.")
    if runs:
        alarms, tried = sum(run.false_alarms for run in runs), f"{many(len(runs), 'run')} of {soak_extent(runs)}"
        sentences.append(f"Unchanged code raised {many(alarms, 'alarm')} in {tried}.")
    dead = [
        "{} {} of {}".format(package, *killed(mutants, package))
        for package in dict.fromkeys(one.planted.package for one in mutants)
    ]
    return " ".join([*sentences, *([f"Mutants killed: {', '.join(dead)}."] if dead else [])])


# Faults


def tally(trials: Faults) -> tuple[int, int]:
    """How many were caught, of how many that some test should see."""
    visible = [one.status for one in trials if not one.planted.equivalent]
    return visible.count("caught"), len(visible)


def median_seconds(trials: Faults) -> float:
    """From the start of a process to its alarm, imports included."""
    return statistics.median(one.outcome.seconds for one in trials if one.status == "caught")


def missed(trials: Faults) -> list[Trial[Fault]]:
    """What no test saw and some should, or what could not be tried, values before cost."""
    found = [one for one in trials if one.status != "caught" and not one.planted.equivalent]
    return sorted(found, key=lambda one: (one.status != "missed", one.planted.kind != "value", one.planted.group,
                                          one.planted.name))  # fmt: skip


def missed_table(trials: Faults) -> str:
    rows = [[f"`{one.planted.name}`", one.planted.kind, one.status, one.planted.models, one.planted.suite,
             shortened(one.outcome.what, 160), ", ".join(one.planted.files)] for one in missed(trials)]  # fmt: skip
    return table(["fault", "kind", "", "what it models", "should be seen by", "why", "file"], rows)


def groups(trials: Faults) -> dict[str, list[Trial[Fault]]]:
    """The trials of each class, those that were missed first."""
    found: dict[str, list[Trial[Fault]]] = {name: [] for name in sorted({one.planted.group for one in trials})}
    for one in sorted(trials, key=lambda one: (one.status == "caught", one.planted.name)):
        found[one.planted.group].append(one)
    return found


def group_table(trials: Faults) -> str:
    rows = [[group, *tally(chosen), f"{median_seconds(chosen):.1f}" if tally(chosen)[0] else ""]
            for group, chosen in groups(trials).items()]  # fmt: skip
    return table(["class", "caught", "tried", "median seconds"], rows)


def trial_table(trials: Faults) -> str:
    by = {one: f"`{one.outcome.test.removeprefix('suites/')}` ({one.outcome.evidence})" if one.outcome.test
          else one.outcome.evidence for one in trials}  # fmt: skip
    rows = [[f"`{one.planted.name}`", one.planted.models, one.status, by[one] if one.status == "caught" else "",
             f"{one.outcome.seconds:.1f}"] for one in trials]  # fmt: skip
    return table(["fault", "what it models", "", "caught by", "seconds"], rows)


def suite_table(trials: Faults) -> str:
    """Which suites raised the alarms that they were expected to raise."""
    caught, rows = [one for one in trials if one.status == "caught"], []
    for name in sorted({one.outcome.suite for one in caught} | {one.planted.suite for one in trials}):
        meant = [one for one in trials if one.planted.suite == name and not one.planted.equivalent]
        first = [(one.planted.kind, one.outcome.evidence) for one in caught if one.outcome.suite == name]
        kinds = [kind for kind, _ in first]
        by_itself = sum(one.status == "caught" and one.outcome.suite == name for one in meant)
        rows.append([name, *map(kinds.count, KINDS), first.count(("cost", "exact")), len(meant), by_itself])
    headings = ["suite", "first to an alarm: values", "cost", "cost, by exact evidence", "faults meant for it",
                "of these, raised by it"]  # fmt: skip
    return table(headings, rows)


# False alarms


def soak_extent(runs: Sequence[SoakRun]) -> str:
    """What the runs took of the suites."""
    shares = [100 * run.share for run in runs]
    ends = dict.fromkeys(f"{share:g}" for share in (min(shares), max(shares)))
    return "all tests" if min(shares) == 100 else f"{' to '.join(ends)} % of the tests"


def soak_table(runs: Sequence[SoakRun]) -> str:
    """Verdicts on unchanged code, with and without load."""
    rows = []
    for name, loaded in (("quiet", False), ("all cores loaded", True)):
        chosen = [run for run in runs if run.loaded == loaded]
        counts = [sum(run.counts.get(status, 0) for run in chosen) for status in SOAK_STATUSES]
        values = sum(sum(run.counts.values()) for run in chosen) - counts[0]
        rows.append([name, len(chosen), sum(run.ended == "finished" for run in chosen), values, *counts])
    return table(["machine", "runs", "finished", "values judged", *SOAK_STATUSES], rows)


def soak_alarms(runs: Sequence[SoakRun]) -> list[str]:
    """What unchanged code was blamed for, and how the run can be repeated."""
    return [f"{run.setting}: {shortened(alarm, 200)}" for run in runs for alarm in run.alarms]


# Mutants


def count(mutants: Mutants, package: str) -> tuple[int, ...]:
    """Of one package: tried, killed (those that hung among them), hung, equivalent, survived."""
    statuses = [one.status for one in mutants if one.planted.package == package]
    failed, broken, hung, *others = map(statuses.count, ("caught", "broken", "hung", "equivalent", "missed"))
    return len(statuses), failed + broken + hung, hung, *others


def killed(mutants: Mutants, package: str) -> tuple[int, int]:
    """How many of a package were killed, of how many that some test should see."""
    _, dead, _, _, survived = count(mutants, package)
    return dead, dead + survived


def mutant_table(mutants: Mutants) -> str:
    rows = []
    for package in dict.fromkeys(one.planted.package for one in mutants):
        dead, visible = killed(mutants, package)
        rows.append([package, *count(mutants, package), f"{100 * dead / visible:.1f} %" if visible else ""])
    return table(["package", *MUTANT_COLUMNS], rows)


def change_table(mutants: Mutants, status: str, last: str) -> str:
    """The mutants of a status, and how far their tests came or why no test can see them; empty where there are none."""
    chosen = [one for one in mutants if one.status == status]
    chosen.sort(key=lambda one: (one.planted.file, one.planted.line, one.planted.after))
    rows = [[f"{one.planted.file}:{one.planted.line}", f"`{one.planted.before}`", f"`{one.planted.after}`",
             one.planted.equivalent or one.outcome.what] for one in chosen]  # fmt: skip
    return table(["place", "line", "as a mutant", last], rows) if rows else ""


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    keep_trailing_newline=True,
)  # fmt: skip
_TEMPLATES.globals.update({name: value for name, value in vars().items() if callable(value)})
