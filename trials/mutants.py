"""Mutants on trial: a seeded sample of small changes to the sources, each of which some test should see.

A mutant meets its package's unit tests, and one of `impl_flax` or `twinvae` then the quick form of the suites.
Whatever fails kills it: a value, a test, an import. So does a test that does not end, which is counted apart. Mutants
that `equivalent.toml` lists are not run.

First of all each package is run as it is, which must be clean. The exit status is 0 where 95 % of the mutants of
`impl_flax` that are not equivalent were killed, 1 where not, 2 where nothing could be said.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import psutil
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trials.equivalents import LIST, Equivalent, read_equivalents, reason, stale
from trials.faults import CONTROL, positive
from trials.mutant_trial import IN_SUITES, LIMIT, UNIT_TESTS, mutant_trial, run_mutant, run_unit_tests
from trials.mutants_table import COLUMNS, count
from trials.mutation import PACKAGES, Mutant, in_one_line, sample, shares
from trials.page import write_page
from trials.planting import ROOT, checkout_copy
from trials.processes import import_once, kill_all
from trials.reach import Reach
from trials.results import MUTANTS, MutantTrial, Outcome, append, read_lines, results_folder
from trials.side_by_side import in_turns
from trials.trial import BACKENDS, PLATFORM, run_unchanged, set_environment
from twinvae.bench.files import write_whole
from twinvae.bench.provenance import commit

SIZE = 240
ENOUGH = {"impl_flax": 0.95}  # the share that has to be killed of those that are not equivalent
COLOURS = {"killed": "green", "hung": "green", "survived": "red", "equivalent": "cyan"}


def main(arguments: list[str] | None = None) -> int:
    options, console = _parser().parse_args(arguments), Console()
    with tempfile.TemporaryDirectory(prefix="twinvae-mutants-") as folder:
        copies = [checkout_copy(Path(folder) / f"copy-{number}") for number in range(options.jobs)]
        try:
            listed = equivalents_of(copies[0])
            with console.status("drawing mutants"):
                drawn = _drawn(copies[0], options)
            if options.list:
                console.print(_listed(drawn))
                return 0
            return _run(drawn, listed, copies, options, console)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            return 2
        finally:
            kill_all()


def _run(
    drawn: Sequence[Mutant],
    listed: Sequence[Equivalent],
    copies: Sequence[Path],
    options: argparse.Namespace,
    console: Console,
) -> int:
    """Run what is asked for, and say what all results come to."""
    place, at = results_folder(options.report_dir, PLATFORM) / MUTANTS, commit()
    anew = () if options.resume or options.survivors else options.package
    known = kept(read_lines(place, MutantTrial), listed, copies[0], anew)
    write_whole(place, "".join(f"{trial.model_dump_json()}\n" for trial in known))
    wanted = asked_for(drawn, known, options.survivors)
    reasons = {mutant: reason(mutant, listed) for mutant in wanted}
    for mutant in filter(reasons.get, wanted):
        append(place, mutant_trial(mutant, "equivalent", reason=reasons[mutant], commit=at))
    to_run = [mutant for mutant in wanted if not reasons[mutant]]
    set_environment()
    import_once()
    _limit_memory(options.jobs)
    try:
        packages = [] if options.no_control else list(dict.fromkeys(mutant.package for mutant in to_run))
        unchanged = _control(packages, copies, options.limit, console)

        def attempt(mutant: Mutant, copy: Path) -> MutantTrial:
            return run_mutant(mutant, copy, options.limit, at, unchanged)

        for trial in in_turns(to_run, copies, attempt, console, "mutants", _line):
            append(place, trial)
    except KeyboardInterrupt:
        console.print("interrupted; --resume goes on from here")
    write_page(options.report_dir, PLATFORM)
    found = kept(read_lines(place, MutantTrial), listed)
    if not found:
        console.print("no mutant was tried")
        return 2
    console.print(_summary(found))
    return int(not passed(found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trials.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sample", type=positive, default=SIZE, metavar="N",
                        help=f"mutants of all packages together (default: {SIZE})")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    parser.add_argument("--package", nargs="+", default=list(PACKAGES), choices=list(PACKAGES), help="default: all")
    parser.add_argument("--jobs", type=positive, default=os.cpu_count() or 1, metavar="N", help="default: the cores")
    parser.add_argument("--limit", type=float, default=LIMIT, metavar="SECONDS",
                        help=f"of a trial's unit tests, and of its suites (default: {LIMIT:.0f})")  # fmt: skip
    parser.add_argument("--report-dir", type=Path, default=ROOT / "reports", help="where results and page go")
    parser.add_argument("--resume", action="store_true", help="leave out what the results hold already")
    parser.add_argument("--survivors", action="store_true", help="try again what survived or hung, and nothing else")
    parser.add_argument("--no-control", action="store_true", help="leave out the runs without a mutant")
    parser.add_argument("--list", action="store_true", help="show the sample and run nothing")
    return parser


def equivalents_of(root: Path) -> tuple[Equivalent, ...]:
    """The list of a checkout.

    Raises:
        ValueError: it is not valid, or holds what is no mutant of the sources any more.
    """
    listed = read_equivalents(root / LIST)
    if gone := stale(listed, root):
        raise ValueError("\n".join(f"{LIST}: no mutant of {one.file} turns {one.before!r} into {one.after!r} any more: "
                                   "take the entry out" for one in gone))  # fmt: skip
    return listed


def _drawn(root: Path, options: argparse.Namespace) -> list[Mutant]:
    sizes = shares(options.sample)
    return [mutant for package in options.package for mutant in sample(root, package, sizes[package], options.seed)]


def kept(
    trials: Iterable[MutantTrial], listed: Sequence[Equivalent], root: Path | None = None, anew: Sequence[str] = ()
) -> list[MutantTrial]:
    """The last result of each mutant, survivors called equivalent that have been listed since.

    Args:
        root: a checkout; results of lines that it does not hold any more are left out.
        anew: packages whose results are left out.
    """
    found = []
    for trial in {trial.key: trial for trial in trials}.values():
        why = reason(trial, listed)
        unlisted = trial.status == "equivalent" and not why
        if trial.package in anew or unlisted or not (root is None or _still_there(trial, root)):
            continue
        if trial.status in ("survived", "equivalent"):
            trial = trial.model_copy(update={"status": "equivalent" if why else "survived", "reason": why})
        found.append(trial)
    return found


def _still_there(trial: MutantTrial, root: Path) -> bool:
    path = root / trial.file
    lines = path.read_text(encoding="utf-8").splitlines()[trial.line - 1 :] if path.is_file() else []
    return in_one_line("\n".join(lines)).startswith(trial.before)


def asked_for(drawn: Sequence[Mutant], known: Sequence[MutantTrial], survivors: bool) -> list[Mutant]:
    """Those without a result; with `survivors` those that survived, or hung, as they may on a busy machine."""
    status = {trial.key: trial.status for trial in known}
    wanted = ("survived", "hung") if survivors else (None,)
    return [mutant for mutant in drawn if status.get(mutant.key) in wanted]


def _control(packages: Sequence[str], copies: Sequence[Path], limit: float, console: Console) -> dict[str, Reach]:
    """What the suites run without a mutant, by backend.

    Raises:
        ValueError: unchanged code is not clean, and so every mutant would be called killed.
    """
    for package in packages:
        with console.status(f"unit tests of {package} without a mutant, which must be clean"):
            _check(f"unit tests of {package}", run_unit_tests(UNIT_TESTS[package], copies[0], CONTROL * limit), console)
    wanted = {backend for package in packages for backend in IN_SUITES.get(package, ())}
    backends = [backend for backend in BACKENDS if backend in wanted]

    def attempt(backend: str, copy: Path) -> tuple[str, Outcome | None, Reach | None]:
        return backend, *run_unchanged(copy, CONTROL * limit, backend)

    found = {}
    for backend, outcome, reach in in_turns(backends, copies, attempt, console, "without a mutant", _control_line):
        _check(f"the suites on {backend}", outcome, console)
        found[backend] = reach
    return {backend: found[backend] for backend in backends}


def _control_line(found: tuple[str, Outcome | None, Reach | None]) -> str:
    backend, outcome, _ = found
    return f"the suites on {backend} without a mutant: {outcome.seconds if outcome else 0:.0f} s"


def _check(what: str, outcome: Outcome | None, console: Console) -> None:
    if outcome is None or outcome.status != "clean":
        why = "a test does not end" if outcome is None else f"{outcome.test or 'no test'}: {outcome.what}"
        raise ValueError(f"{what} without a mutant is not clean ({why}): make its tests pass first")
    console.print(f"{what} without a mutant: clean, {outcome.what}", highlight=False)


def _limit_memory(jobs: int) -> None:
    """Of each process: a mutated size must not take the machine with it."""
    bytes_ = psutil.virtual_memory().total // (jobs + 1)
    resource.setrlimit(resource.RLIMIT_DATA, (bytes_, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def passed(trials: Sequence[MutantTrial]) -> bool:
    """Whether enough were killed of each package that has to reach something."""
    counts = [(count(trials, package), share) for package, share in ENOUGH.items()]
    return all(found.killed >= share * (found.killed + found.survived) for found, share in counts)


def _line(trial: MutantTrial) -> str:
    change = f"{trial.file}:{trial.line}  {trial.before}  ->  {trial.after}"
    found = "" if trial.status == "survived" else f"  [dim]{escape(trial.test or trial.what)}[/]"
    return f"[{COLOURS[trial.status]}]{trial.status:8}[/] {trial.seconds:6.1f} s  {escape(change)}{found}"


def _summary(trials: Sequence[MutantTrial]) -> Table:
    table = Table(title="mutants on trial", title_justify="left")
    for heading in ("package", *COLUMNS):
        table.add_column(heading, justify="left" if heading == "package" else "right")
    for package in PACKAGES:
        found = count(trials, package)
        table.add_row(package, *map(str, found), found.share)
    return table


def _listed(drawn: Sequence[Mutant]) -> Table:
    table = Table()
    for heading in ("place", "operator", "before", "after"):
        table.add_column(heading, overflow="fold")
    for mutant in drawn:
        place = f"{mutant.file}:{mutant.line}"
        table.add_row(place, mutant.operator, escape(mutant.before), escape(mutant.after))
    return table


if __name__ == "__main__":
    sys.exit(main())
