"""Faults on trial: are the suites' alarms real? Each fault of the catalogue is planted in a copy of the checkout, and
the quick form of the suites that answer for its kind runs on it until the first alarm.

First of all they run on a copy without a fault, which must raise none, and which shows where a trial may begin. The
exit status is 0 where every fault of values and 95 % of those of cost were caught, 1 where not, 2 where nothing could
be said.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trials.catalogue import Fault, read_catalogue
from trials.order import ANSWERABLE
from trials.page import write_page
from trials.planting import ROOT, checkout_copy
from trials.processes import import_once, kill_all
from trials.reach import Reach
from trials.results import TRIALS, Outcome, Trial, append, read_lines, results_folder
from trials.side_by_side import in_turns
from trials.trial import BACKENDS, LIMIT, PLATFORM, run_trial, run_unchanged, set_environment
from twinvae.bench.provenance import commit

ENOUGH = {"value": 1.0, "cost": 0.95}  # the share of each kind that has to be caught
COLOURS = {"caught": "green", "missed": "red", "stale": "yellow", "hung": "yellow", "broken": "yellow"}
CONTROL = 1.5  # times as long as a trial lasts: what a trial may reach must be clean


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    console = Console()
    try:
        faults = selected(read_catalogue(), options.only, options.kind)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    if options.list:
        console.print(_listed(faults))
        return 0
    place = results_folder(options.report_dir, PLATFORM) / TRIALS
    trials: list[Trial] = []
    if options.resume:
        last = {trial.fault: trial for trial in read_lines(place, Trial)}
        trials = [last[fault.name] for fault in faults if fault.name in last]
        faults = [fault for fault in faults if fault.name not in last]
    elif not options.only and not options.kind:
        place.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="twinvae-faults-") as folder:
        set_environment()
        import_once()
        copies = [checkout_copy(Path(folder) / f"copy-{number}") for number in range(options.jobs)]
        try:
            kinds = [] if options.no_control else dict.fromkeys(fault.kind for fault in faults)
            unchanged = _control([*kinds], copies, CONTROL * options.limit, console)
            at = commit()

            def attempt(fault: Fault, copy: Path) -> Trial:
                return run_trial(fault, copy, options.limit, at, unchanged.get(fault.kind, {}))

            for trial in in_turns(faults, copies, attempt, console, "faults", _line):
                append(place, trial)
                trials.append(trial)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            kill_all()
            console.print("interrupted; --resume goes on from here")
        finally:
            kill_all()
    if not trials:
        console.print("no fault was tried")
        return 2
    console.print(_summary(trials))
    write_page(options.report_dir, PLATFORM)
    return int(not passed(trials))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trials.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="faults or classes; globs are taken")
    parser.add_argument("--kind", choices=list(ENOUGH), help="faults of one kind alone")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, metavar="N", help="default: the cores")
    parser.add_argument(
        "--limit", type=float, default=LIMIT, metavar="SECONDS", help=f"of a trial (default: {LIMIT:.0f})"
    )
    parser.add_argument("--report-dir", type=Path, default=ROOT / "reports", help="where results and page go")
    parser.add_argument("--resume", action="store_true", help="leave out what the results hold already")
    parser.add_argument("--no-control", action="store_true", help="leave out the run without a fault")
    parser.add_argument("--list", action="store_true", help="show the catalogue and run nothing")
    return parser


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number from 1 up")
    return int(text)


def selected(faults: Sequence[Fault], only: Sequence[str], kind: str | None) -> list[Fault]:
    """The faults whose name or class matches one of the globs.

    Raises:
        ValueError: a glob matches nothing.
    """
    for glob in only:
        if not any(_matches(fault, glob) for fault in faults):
            raise ValueError(f"--only {glob}: no fault and no class of that name; --list shows them")
    wanted = [fault for fault in faults if not only or any(_matches(fault, glob) for glob in only)]
    return [fault for fault in wanted if kind in (None, fault.kind)]


def _matches(fault: Fault, glob: str) -> bool:
    return fnmatch.fnmatchcase(fault.name, glob) or fnmatch.fnmatchcase(fault.group, glob)


class Control(NamedTuple):
    """A run without a fault: of the suites that answer for a kind, for one backend."""

    kind: str
    backend: str
    outcome: Outcome | None
    reach: Reach | None

    def __str__(self) -> str:
        return f"{self.backend} without a fault, in the suites that answer for {self.kind}"


def _control(
    kinds: Sequence[str], copies: Sequence[Path], limit: float, console: Console
) -> dict[str, dict[str, Reach]]:
    """What the suites that answer for each kind run without a fault, by backend.

    Raises:
        ValueError: unchanged code would be called faulty.
    """
    found: dict[str, dict[str, Reach]] = {kind: {} for kind in kinds}

    def attempt(given: tuple[str, str], copy: Path) -> Control:
        kind, backend = given
        return Control(kind, backend, *run_unchanged(copy, limit, backend, ANSWERABLE[kind]))

    wanted = [(kind, backend) for kind in kinds for backend in BACKENDS]
    for control in in_turns(wanted, copies, attempt, console, "without a fault", _control_line):
        if control.outcome is None:
            raise ValueError(f"{control} hangs, and so every fault might be called hung: run the suites by hand")
        if control.outcome.status != "clean" or control.reach is None:
            raise ValueError(
                f"{control} is not clean, and so every fault would be called caught: {control.outcome.status}, "
                f"{control.outcome.test or 'no test'}: {control.outcome.what}. Make the suites pass on the unchanged "
                "checkout first"
            )
        found[control.kind][control.backend] = control.reach
    return {kind: {backend: runs[backend] for backend in BACKENDS} for kind, runs in found.items()}


def _control_line(control: Control) -> str:
    if control.outcome is None:
        return f"{control}: hung"
    return f"{control}: {control.outcome.status}, {control.outcome.seconds:.0f} s ({control.outcome.what})"


def _line(trial: Trial) -> str:
    found = f"  [dim]{escape(trial.test or trial.what)}[/]" if trial.status != "missed" else ""
    return f"[{COLOURS[trial.status]}]{trial.status:7}[/] {trial.seconds:6.1f} s  {trial.fault}{found}"


def passed(trials: Sequence[Trial]) -> bool:
    """Whether enough of each kind was caught, and every fault could be tried."""
    if any(trial.status in ("stale", "hung", "broken") for trial in trials):
        return False
    for kind, share in ENOUGH.items():
        visible = [trial for trial in trials if trial.kind == kind and not trial.equivalent]
        if sum(trial.status == "caught" for trial in visible) < share * len(visible):
            return False
    return True


def _summary(trials: Sequence[Trial]) -> Table:
    table = Table(title="faults on trial", title_justify="left")
    statuses = [status for status in COLOURS if any(trial.status == status for trial in trials)]
    for heading in ("kind", *statuses, "median seconds to the alarm"):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    for kind in ENOUGH:
        of_kind = [trial for trial in trials if trial.kind == kind]
        counts = Counter(trial.status for trial in of_kind)
        seconds = [trial.seconds for trial in of_kind if trial.status == "caught"]
        middle = f"{statistics.median(seconds):.1f}" if seconds else ""
        table.add_row(kind, *(str(counts[status]) for status in statuses), middle)
    return table


def _listed(faults: Sequence[Fault]) -> Table:
    table = Table()
    for heading in ("class", "fault", "kind", "suite", "models"):
        table.add_column(heading, overflow="fold")
    for fault in faults:
        table.add_row(fault.group, fault.name, fault.kind, fault.suite, fault.models)
    return table


if __name__ == "__main__":
    sys.exit(main())
