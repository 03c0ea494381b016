"""`nox -s gpu`: parity, speed and memory on this machine's card, in minutes; each step is a process of its own.

What a step measures is on disk at once, whatever happens to the steps after it. The last line says what to do next.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError

from suites.gpu.steps import SKIPPED, STEPS, Step, chosen
from twinvae.bench.places import BASELINES, LOCAL_REPORTS, ROOT
from twinvae.bench.records import Failure, Record, Run, RunFile
from twinvae.bench.verdicts import number

BUDGET = 600
LEAST = 20  # seconds below which no step is begun
FACTS = 120  # seconds that a card may take to say what it is
CACHE = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
SHOWN = ("time of a call", "time over PyTorch", "time over torch.compile", "share of the peak", "memory of a call",
         "mae", "mae_vs_torch", "prediction off the measurement by", "first call, whole")  # fmt: skip
_LINES: TypeAdapter[Any] = TypeAdapter(Annotated[Record | Failure | Run, Field(discriminator="type")])


class Ended(NamedTuple):
    """How a process ended; `status` is None where its time was up."""

    status: int | None
    seconds: float


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 well, or nothing to measure here; 1 a step failed or a value is past its limit; 2 no run."""
    given = _parser().parse_args(arguments)
    try:
        steps = chosen(given.only, given.rehearse)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    if given.list:
        print(*(f"{step.name:16} at most {step.seconds} s" for step in steps), sep="\n")
        return 0
    signal.signal(signal.SIGTERM, _interrupt)  # `timeout`, too, lets a run close its files
    with tempfile.TemporaryDirectory(prefix="twinvae-gpu-") as folder:
        return measure(steps, given, Path(folder))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m suites.gpu", description=__doc__, allow_abbrev=False)
    parser.add_argument("--only", metavar="STEPS", help="these steps, in this order, separated by commas")
    parser.add_argument("--list", action="store_true", help="name the steps, and measure nothing")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help=f"of it all (default {BUDGET})")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, a tiny model and tiny frames")
    parser.add_argument("--report-dir", type=Path, default=LOCAL_REPORTS, metavar="DIR")
    parser.add_argument("--texts", type=Path, default=Path("build/gpu"), metavar="DIR", help="of diagnoses: programs")
    parser.add_argument("--commit", default="", help="of the checkout, where git cannot say")
    parser.add_argument("--no-pages", action="store_true", help="write records alone; `nox -s report` makes pages")
    return parser


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def measure(steps: list[Step], given: argparse.Namespace, folder: Path) -> int:
    """Run the steps, and write what they measure as it comes."""
    began = time.monotonic()
    common = [
        "--folder",
        str(folder),
        "--texts",
        str(given.texts.absolute()),
        *(["--rehearse"] if given.rehearse else []),
    ]
    runs: list[Run] = []

    def note(line: str) -> None:
        print(f"[{time.monotonic() - began:6.1f} s] {line}", flush=True)

    def told(line: Record | Failure | Run) -> None:
        runs.append(line)

    facts = in_a_process(["facts", *common], environment(folder, given.rehearse), FACTS, told)
    if facts.status or not runs:
        return 0 if facts.status == SKIPPED else 2
    runs = [run.model_copy(update={"commit": given.commit or run.commit}) for run in runs]
    files, platform = start(runs, given.report_dir, steps), runs[0].platform
    done, failed, interrupted = [], [], False

    try:
        for step in steps:
            left = given.budget - (time.monotonic() - began)
            if left < LEAST:
                note(f"{step.name}: not begun, the budget of {given.budget:.0f} s is spent")
                continue
            limit = min(step.seconds, left)
            note(f"{step.name}: at most {limit:.0f} s")
            keep = partial(keep_line, files.get(step.suite), note)
            ended = in_a_process([step.name, *common], environment(folder, given.rehearse, step), limit, keep)
            why = "" if ended.status == 0 else f"ended after {limit:.0f} s" if ended.status is None else "failed"
            note(f"{step.name}: {why or 'done'} in {ended.seconds:.1f} s")
            (failed if why else done).append(step.name)
            if why and step.suite:
                message = f"{why}; status {ended.status}: see what it printed"
                rerun = f"nox -s gpu -- --only {step.name}"
                files[step.suite].failure(f"gpu {step.name}", message, rerun, case=step.name)
    except KeyboardInterrupt:
        interrupted = True
        note("interrupted: what was measured is kept")
    for suite, file in files.items():
        wanted = {step.name for step in STEPS if step.suite == suite}
        file.end(complete=wanted <= {*done}, exit_status=2 if interrupted else int(bool(failed)))
    if not given.no_pages and files:
        return int(pages(given.report_dir, platform, note, tuple(files)) or bool(failed))
    note(f"records: {given.report_dir / platform / 'records'}; pages: `nox -s report`")
    return int(bool(failed) or interrupted)


def pages(report_dir: Path, platform: str, note: Callable[[str], None], suites: tuple[str, ...]) -> bool:
    """Write the pages, and whether a value is past its limit, or worse than its baseline."""
    from twinvae.bench.report import write_report

    summary = write_report(report_dir, BASELINES, platform, suites)
    note("\n".join([*summary.lines, f"pages: {summary.index}; accept the numbers with `nox -s baseline`"]))
    return summary.failed


def start(runs: list[Run], report_dir: Path, steps: list[Step]) -> dict[str, RunFile]:
    """The run file of each suite that the steps write to."""
    files = {}
    for run in runs:
        if run.suite in {step.suite for step in steps}:
            files[run.suite] = RunFile(report_dir / run.platform / "records" / f"{run.suite}.jsonl")
            files[run.suite].start(run)
    return files


def keep_line(file: RunFile, note: Callable[[str], None], line: Record | Failure | Run) -> None:
    """Write a line of a step into its suite's file, and show it where it is one to look at."""
    if isinstance(line, Failure):
        file.failure(line.test, line.message, line.rerun, case=line.case)
        note(f"FAILED {line.test}: {line.message}")
        return
    try:
        file.record(line)
    except ValueError as error:  # measured by two steps: the first stays
        note(str(error))
    if line.metric in SHOWN:
        of = f", limit {number(line.limit)}" if line.limit is not None else ""
        value = line.note if line.value is None else f"{number(line.value)} {line.unit}{of} {line.note}"
        key = line.key
        note(f"  {key.backend} {key.mode} {key.operation} {key.shape} {key.dtype} {key.case}: {key.metric} {value}")


def environment(folder: Path, rehearse: bool, step: Step | None = None) -> dict[str, str]:
    """Of a step's process. JAX's cache is shared: what one step has compiled, the next ones find."""
    own = CACHE | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1"}
    own["JAX_COMPILATION_CACHE_DIR"] = str(folder / f"cache{step.cache if step else ''}")
    if rehearse:
        own |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}
    return own | dict(step.environment if step else {})


def in_a_process(
    arguments: list[str], own: dict[str, str], seconds: float, told: Callable[[Record | Failure | Run], None]
) -> Ended:
    """Run `suites.gpu.step`, hand on each line that is a record the moment it comes, and end it when its time is up.

    All that it has started ends with it: compilers that go on would disturb the steps after it.
    """
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "suites.gpu.step", *arguments], cwd=ROOT, env=os.environ | own, text=True,
        stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    reader = threading.Thread(target=_read, args=(process, told), daemon=True)
    reader.start()
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        status = None
    finally:
        _end(process)
        reader.join(10)
    return Ended(status, time.monotonic() - began)


def _end(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _read(process: subprocess.Popen[str], told: Callable[[Record | Failure | Run], None]) -> None:
    for line in process.stdout:
        try:
            told(_LINES.validate_json(line))
        except ValidationError:  # what a library prints
            print(line, end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
