"""Mutants on trial: a seeded sample of small changes to the sources, each of which some test should see.

A mutant meets its package's unit tests, and one of `impl_flax` or `twinvae` then the quick form of the suites.
Whatever fails kills it: a value, a test, an import. So does a test that does not end, which is counted apart. Mutants
that `equivalent.toml` lists are not run.

First of all each package is run as it is, which must be clean. The exit status is 0 where 95 % of the mutants of
`impl_flax` that are not equivalent were killed, 1 where not, 2 where nothing could be said.
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from typing import Annotated

import psutil
import typer
from rich.console import Console

from trials.alarm import Outcome
from trials.mutation import PACKAGES, Mutant, equivalents, sample, shares
from trials.page import killed, mutant_table, write_page
from trials.planting import ROOT
from trials.results import Trial, results
from trials.session import CORES, Jobs, Limit, Listing, ReportDir, Resume, WithControl, try_all
from trials.trial import LIMIT, PLATFORM, trial_of
from twinvae.bench.pages import table
from twinvae.bench.places import LOCAL_REPORTS
from twinvae.bench.provenance import commit

SIZE = 240
ENOUGH = {"impl_flax": 0.95}  # the share that has to be killed of those that are not equivalent
Size = Annotated[int, typer.Option("--sample", min=1, metavar="N", help="mutants of all packages together")]
Package = Annotated[list[str] | None, typer.Option(metavar="NAME", help=f"of {', '.join(PACKAGES)}; several times")]
Survivors = Annotated[bool, typer.Option("--survivors", help="try again what survived or hung, and nothing else")]


def main(
    size: Size = SIZE, seed: Annotated[int, typer.Option(help="of the sample")] = 0,
    package: Package = None, jobs: Jobs = CORES, limit: Limit = LIMIT, report_dir: ReportDir = LOCAL_REPORTS,
    resume: Resume = False, survivors: Survivors = False, control: WithControl = True, listing: Listing = False,
) -> None:  # fmt: skip
    console, store, chosen = Console(), results(report_dir, PLATFORM).mutants, package or list(PACKAGES)
    try:
        if unknown := set(chosen) - set(PACKAGES):
            raise ValueError(f"--package {', '.join(sorted(unknown))}: choose from {', '.join(PACKAGES)}")
        with console.status("drawing mutants"):
            listed, sizes = equivalents(ROOT), shares(size)
            drawn = [mutant for name in PACKAGES for mutant in sample(ROOT, name, sizes[name], seed, listed)]
        if listing:
            rows = [[f"{one.file}:{one.line}", one.operator, one.before, one.after] for one in drawn
                    if one.package in chosen]  # fmt: skip
            print(table(["place", "operator", "before", "after"], rows))
            raise typer.Exit
        anew = () if resume or survivors else chosen
        known = [trial for trial in kept(store.read(), drawn) if trial.planted.package not in anew]
        wanted = [mutant for mutant in asked_for(drawn, known, survivors) if mutant.package in chosen]
        again = {mutant.name for mutant in wanted}
        store.write(trial for trial in known if trial.planted.name not in again)
        for mutant in (mutant for mutant in wanted if mutant.equivalent):
            store.append(trial_of(mutant, "equivalent", Outcome(status="clean", seconds=0), commit()))
        _limit_memory(jobs)
        try_all([one for one in wanted if not one.equivalent], store.append, console, jobs, limit, control)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    write_page(report_dir, PLATFORM)
    found = store.read()
    if not found:
        print("no mutant was tried")
        raise typer.Exit(2)
    print(mutant_table(found))
    raise typer.Exit(int(not passed(found)))


def kept(trials: Sequence[Trial[Mutant]], drawn: Sequence[Mutant]) -> list[Trial[Mutant]]:
    """The last result of each mutant that is still drawn from the sources, but for those listed, or not, since then."""
    last, now = {trial.planted.name: trial for trial in trials}, {mutant.name: mutant for mutant in drawn}
    found = {name: trial for name, trial in last.items() if name in now}
    moot = {name for name, trial in found.items() if trial.status in ("missed", "equivalent")
            and trial.planted.equivalent != now[name].equivalent}  # fmt: skip
    return [trial for name, trial in found.items() if name not in moot]


def asked_for(drawn: Sequence[Mutant], known: Sequence[Trial[Mutant]], survivors: bool) -> list[Mutant]:
    """Those without a result; with `survivors` those that survived, or hung, as they may on a busy machine."""
    status = {trial.planted.name: trial.status for trial in known}
    wanted = ("missed", "hung") if survivors else (None,)
    return [mutant for mutant in drawn if status.get(mutant.name) in wanted]


def _limit_memory(jobs: int) -> None:
    """Of each process: a mutated size must not take the machine with it."""
    bytes_ = psutil.virtual_memory().total // (jobs + 1)
    resource.setrlimit(resource.RLIMIT_DATA, (bytes_, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def passed(trials: Sequence[Trial[Mutant]]) -> bool:
    """Whether enough were killed of each package that has to reach something."""
    counts = [(*killed(trials, package), share) for package, share in ENOUGH.items()]
    return all(dead >= share * visible for dead, visible, share in counts)


if __name__ == "__main__":
    main.__doc__ = __doc__
    typer.run(main)
