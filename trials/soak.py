"""Unchanged code, over and over: how often do the suites raise a false alarm?

The suites run in random order, every other run with all cores kept busy by other processes, in turn with the stored
seed and clip and with others. Of another seed or clip, values are not held against baselines, and limits still hold.
With `--share 0.1` each run takes another tenth of the tests, drawn at random: an alarm that comes once in so many runs
of a test is met as often for the same number of tests run.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape

from trials.page import soak_table, write_page
from trials.planting import ROOT
from trials.processes import import_once, kill_all, loaded, run_pytest
from trials.results import SoakRun, results
from trials.session import ReportDir
from trials.trial import PLATFORM
from twinvae.bench.clips import synthetic_clip
from twinvae.bench.places import BASELINES, LOCAL_REPORTS
from twinvae.bench.provenance import commit
from twinvae.bench.report import judge_suites

RUNS, LIMIT = 10, 3600.0  # seconds
SEEDS = (0, 1, 2, 3)  # the first is that of the baselines
CLIP, OTHER = (81, 72, 104), 1000  # frames, height and width of a clip in a file, and its seed, apart from the suites'
SHOWN_ALARMS = 5


def setting(run: int) -> dict[str, Any]:
    """Seed and clip change from run to run, and each is met with and without load."""
    turn, loaded = divmod(run, 2)
    seed = SEEDS[turn % len(SEEDS)]
    return {"order": run, "seed": seed, "clip": f"clip-{seed}" if turn % 2 else "synthetic", "loaded": bool(loaded)}


def main(
    runs: Annotated[int, typer.Option(min=1, metavar="N", help="how many")] = RUNS,
    first: Annotated[int, typer.Option(metavar="N", help="number of the first run")] = 0,
    only: Annotated[list[str] | None, typer.Option(metavar="PATH", help="tests, such as suites/parity; several times "
                                                   "(default: suites)")] = None,
    share: Annotated[float, typer.Option(min=1e-6, max=1, help="of the tests, drawn anew in each run")] = 1.0,
    limit: Annotated[float, typer.Option(metavar="SECONDS", help="of a run")] = LIMIT,
    report_dir: ReportDir = LOCAL_REPORTS,
) -> None:  # fmt: skip
    console, found, began = Console(), [], time.monotonic()
    import_once()
    try:
        for run in range(first, first + runs):
            with tempfile.TemporaryDirectory(prefix="twinvae-soak-") as folder:
                found.append(soak(setting(run), only or ["suites"], share, limit, Path(folder)))
            results(report_dir, PLATFORM).soak.append(found[-1])
            left = (time.monotonic() - began) / len(found) * (runs - len(found))
            console.print(_line(found[-1]), f"[dim]{left / 60:.0f} min left[/]", highlight=False, soft_wrap=True)
    except KeyboardInterrupt:
        console.print("interrupted")
    finally:
        kill_all()
    if not found:
        raise typer.Exit(2)
    write_page(report_dir, PLATFORM)
    print(soak_table(found))
    raise typer.Exit(int(any(result.false_alarms or result.ended != "finished" for result in found)))


def soak(given: dict[str, Any], paths: Sequence[str], share: float, limit: float, folder: Path) -> SoakRun:
    """One run of the suites, and what is wrong with it."""
    options = ["--seed", str(given["seed"])]
    if given["clip"] != "synthetic":
        clip = folder / f"{given['clip']}.npy"
        np.save(clip, synthetic_clip(*CLIP, seed=OTHER + given["seed"])[0])
        options += ["--clip", str(clip)]
    arguments = [
        *paths, "-p", "randomly", f"--randomly-seed={given['order']}", "-p", "trials.share", f"--share={share}",
        "-p", "no:cacheprovider", "-q", "--preset", "tiny", "--platform", PLATFORM,
        "--report-dir", str(folder / "reports"), *options,
    ]  # fmt: skip
    began = time.monotonic()
    with loaded(given["loaded"]):
        status = run_pytest(arguments, ROOT, folder / "output", limit)
    try:
        suites = judge_suites(folder / "reports", BASELINES, PLATFORM)
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
        **given, suites=tuple(paths), share=share,
        ended="hung" if status is None else "finished" if suites and status in (0, 1) else "broken",
        seconds=round(time.monotonic() - began, 1),
        counts=dict(Counter(verdict.status for verdict in verdicts)) | {"failed": len(failures)},
        alarms=tuple(alarms[:SHOWN_ALARMS]),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit(),
    )  # fmt: skip


def _line(result: SoakRun) -> str:
    counts = ", ".join(f"{count} {status}" for status, count in result.counts.items() if count)
    wrong = "".join(f"\n    [red]{escape(alarm)}[/]" for alarm in result.alarms)
    return f"{result.setting}: {result.ended}, {result.seconds:.0f} s, {counts or 'nothing measured'}{wrong}"


if __name__ == "__main__":
    main.__doc__ = __doc__
    typer.run(main)
