"""Unchanged code, over and over: how often do the suites raise a false alarm?

The suites run in random order, every other run with all cores kept busy by other processes, in turn with the stored
seed and clip and with others. Of another seed or clip, values are not held against baselines, and limits still hold.
With `--share 0.1` each run takes another tenth of the tests, drawn at random: an alarm that comes once in so many runs
of a test is met as often for the same number of tests run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from suites.speed.gate import loaded
from trials.page import write_page
from trials.planting import ROOT
from trials.processes import import_once, kill_all, run_pytest
from trials.results import SOAK, SoakRun, append, results_folder
from trials.shuffle import ORDER, SHARE
from trials.trial import PLATFORM
from twinvae.bench.provenance import commit
from twinvae.bench.report import judge_suites
from twinvae.bench.verdicts import STATUSES

RUNS, LIMIT = 10, 3600.0  # seconds
SEEDS = (0, 1, 2, 3)  # the first is that of the baselines
FRAMES, HEIGHT, WIDTH = 81, 72, 104
SHOWN_ALARMS = 5


class Setting(NamedTuple):
    """Of one run."""

    order: int
    seed: int
    clip: str
    loaded: bool


def setting(run: int) -> Setting:
    """Seed and clip change from run to run, and each is met with and without load."""
    turn = run // 2
    seed = SEEDS[turn % len(SEEDS)]
    return Setting(run, seed, "synthetic" if turn % 2 == 0 else f"motion-{seed}", run % 2 == 1)


def random_motion(seed: int) -> np.ndarray:
    """A clip of smooth waves that drift, in [-1, 1]."""
    rng = np.random.default_rng(seed)
    time_, y, x = (np.linspace(0, 1, size) for size in (FRAMES, HEIGHT, WIDTH))
    clip = np.zeros((FRAMES, HEIGHT, WIDTH, 3))
    for _ in range(12):
        down, right, drift, phase = rng.uniform(-6, 6, 4)
        wave = down * y[None, :, None] + right * x[None, None, :] + drift * time_[:, None, None] + phase
        clip += rng.uniform(-1, 1, 3) * np.sin(2 * np.pi * wave)[..., None]
    return (clip / np.abs(clip).max()).astype(np.float32)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    console, found = Console(), []
    place = results_folder(options.report_dir, PLATFORM) / SOAK
    began = time.monotonic()
    import_once()
    try:
        for run in range(options.first, options.first + options.runs):
            with tempfile.TemporaryDirectory(prefix="twinvae-soak-") as folder:
                result = soak(setting(run), options.only, options.share, options.limit, Path(folder))
            append(place, result)
            found.append(result)
            left = (time.monotonic() - began) / len(found) * (options.runs - len(found))
            console.print(_line(result), f"[dim]{left / 60:.0f} min left[/]", highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        console.print("interrupted")
    finally:
        kill_all()
    if not found:
        return 2
    console.print(_table(found))
    write_page(options.report_dir, PLATFORM)
    return int(any(result.false_alarms or result.ended != "finished" for result in found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trials.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=RUNS, metavar="N", help=f"default: {RUNS}")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="number of the first run (default: 0)")
    parser.add_argument("--only", nargs="+", default=["suites"], metavar="PATH", help="tests, such as suites/parity")
    parser.add_argument("--share", type=_share, default=1.0, help="of the tests, in each run (default: 1, all)")
    parser.add_argument("--limit", type=float, default=LIMIT, metavar="SECONDS", help="of a run")
    parser.add_argument("--report-dir", type=Path, default=ROOT / "reports", help="where results and page go")
    return parser


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a share of the tests, above 0 and up to 1")
    return share


def soak(given: Setting, paths: Sequence[str], share: float, limit: float, folder: Path) -> SoakRun:
    """One run of the suites, and what is wrong with it."""
    options = ["--seed", str(given.seed)]
    if given.clip != "synthetic":
        clip = folder / f"{given.clip}.npy"
        np.save(clip, random_motion(given.seed))
        options += ["--clip", str(clip)]
    arguments = [
        *paths, "-p", "trials.shuffle", "-p", "no:cacheprovider", "-q",
        "--preset", "tiny", "--platform", PLATFORM, "--report-dir", str(folder / "reports"), *options,
    ]  # fmt: skip
    began = time.monotonic()
    drawn = {ORDER: str(given.order), SHARE: str(share)}
    with loaded(given.loaded):
        status = run_pytest(arguments, ROOT, folder / "output", limit, extra=drawn)
    try:
        suites = judge_suites(folder / "reports", ROOT / "baselines", PLATFORM)
    except (OSError, ValueError):
        suites = []
    verdicts = [verdict for judged in suites for verdict in judged.verdicts]
    failures = [failure for judged in suites for failure in judged.data.failures]
    alarms = [f"{v.status}: {v.key}: {v.reason}" for v in verdicts if v.failing]
    alarms += [f"failed: {failure.test}: {failure.message}" for failure in failures]
    if not suites or status not in (0, 1, None):
        lines = (folder / "output").read_text(errors="replace").strip().splitlines()
        alarms.append(f"pytest ended with {status}: {lines[-1] if lines else 'no output'}")
    return SoakRun(
        **given._asdict(),
        suites=tuple(paths),
        share=share,
        ended="hung" if status is None else "finished" if suites and status in (0, 1) else "broken",
        seconds=round(time.monotonic() - began, 1),
        counts=dict(Counter(verdict.status for verdict in verdicts)) | {"failed": len(failures)},
        alarms=tuple(alarms[:SHOWN_ALARMS]),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit(),
    )


def _line(result: SoakRun) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in result.counts.items() if count)
    load = "loaded" if result.loaded else "quiet"
    where = f"run {result.order}, seed {result.seed}, {result.clip}, {load}"
    wrong = "".join(f"\n    [red]{escape(alarm)}[/]" for alarm in result.alarms)
    return f"{where}: {result.ended}, {result.seconds:.0f} s, {counts or 'nothing measured'}{wrong}"


def _table(found: Sequence[SoakRun]) -> Table:
    table = Table(title="unchanged code", title_justify="left")
    statuses = ("failed", *STATUSES)
    for heading in ("machine", "runs", "finished", *statuses):
        table.add_column(heading, justify="left" if heading == "machine" else "right")
    for load in (False, True):
        runs = [result for result in found if result.loaded == load]
        counts = [str(sum(result.counts.get(status, 0) for result in runs)) for status in statuses]
        finished = sum(result.ended == "finished" for result in runs)
        table.add_row("all cores loaded" if load else "quiet", str(len(runs)), str(finished), *counts)
    return table


if __name__ == "__main__":
    sys.exit(main())
