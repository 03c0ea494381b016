"""Faults on trial: are the suites' alarms real? Each fault of the catalogue is planted in a copy of the checkout, and
the quick form of the suites that answer for its kind runs on it until the first alarm.

First of all they run on a copy without a fault, which must raise none, and which shows where a trial may begin. The
exit status is 0 where every fault of values and 95 % of those of cost were caught, 1 where not, 2 where nothing could
be said.
"""

from __future__ import annotations

import fnmatch
import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import typer
from rich.console import Console

from trials.catalogue import Fault, read_catalogue
from trials.page import missed_table, verdict, write_page
from trials.results import Trial, results
from trials.session import CORES, Jobs, Limit, Listing, ReportDir, Resume, WithControl, try_all
from trials.trial import LIMIT, PLATFORM
from twinvae.bench.pages import table
from twinvae.bench.places import LOCAL_REPORTS

ENOUGH = {"value": 1.0, "cost": 0.95}  # the share of each kind that has to be caught
Only = Annotated[list[str] | None, typer.Option(metavar="NAME", help="a fault or class; globs, several times")]
Kind = Annotated[Literal["value", "cost"] | None, typer.Option(help="faults of one kind alone")]


def main(
    only: Only = None, kind: Kind = None, jobs: Jobs = CORES, limit: Limit = LIMIT, resume: Resume = False,
    report_dir: ReportDir = LOCAL_REPORTS, control: WithControl = True, listing: Listing = False,
) -> None:  # fmt: skip
    console, store, known = Console(), results(report_dir, PLATFORM).faults, []
    try:
        faults = selected(read_catalogue(), only or (), kind)
        if listing:
            rows = [[one.group, one.name, one.kind, one.suite, one.models] for one in faults]
            print(table(["class", "fault", "kind", "suite", "models"], rows))
            raise typer.Exit
        last = {trial.planted.name: trial for trial in store.read()} if resume or only or kind else {}
        store.write(last.values())
        known = [last.pop(fault.name) for fault in faults if resume and fault.name in last]
        found, done = list(known), {trial.planted.name for trial in known}

        def keep(trial: Trial[Fault]) -> None:
            store.append(trial)
            found.append(trial)

        try_all([fault for fault in faults if fault.name not in done], keep, console, jobs, limit, control)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    if not found:
        print("no fault was tried")
        raise typer.Exit(2)
    write_page(report_dir, PLATFORM)
    print(verdict(found, (), ()), missed_table(found), sep="\n\n")
    raise typer.Exit(int(not passed(found)))


def selected(faults: Sequence[Fault], only: Sequence[str], kind: str | None) -> list[Fault]:
    """The faults whose name or class matches one of the globs.

    Raises:
        ValueError: a glob matches nothing.
    """
    names = {one.name: {glob for glob in only if fnmatch.filter((one.name, one.group), glob)} for one in faults}
    if unknown := [glob for glob in only if glob not in set().union(*names.values())]:
        raise ValueError(f"--only {', '.join(unknown)}: no fault and no class of that name; --list shows them")
    return [one for one in faults if (names[one.name] or not only) and kind in (None, one.kind)]


def passed(trials: Sequence[Trial[Fault]]) -> bool:
    """Whether enough of each kind was caught, and every fault could be tried."""
    statuses = {kind: [one.status for one in trials if one.planted.kind == kind and not one.planted.equivalent]
                for kind in ENOUGH}  # fmt: skip
    tried = all(trial.status in ("caught", "missed") for trial in trials)
    return tried and all(found.count("caught") >= ENOUGH[kind] * len(found) for kind, found in statuses.items())


if __name__ == "__main__":
    main.__doc__ = __doc__
    typer.run(main)
