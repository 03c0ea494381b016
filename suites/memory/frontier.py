"""How far a chip's memory reaches: most frames, and the largest frames, untiled, streamed and tiled.

`python -m suites.memory.frontier v6e` asks the compiler what programs need, which takes it seconds; with
`--confirm`, the largest that fits is compiled in full as well, which takes minutes, and where it is refused the search
goes on below it. With `--curve`, smaller clips are asked for, too, for the picture. Every program is asked for once:
what is known already is recalled, what was compiled before what was only asked for, so an interrupted frontier goes on
where it was.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import typer
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import twinvae
from suites.memory.cases import DTYPE, LEANEST, Case, Way
from suites.memory.lowered import Programs, lowered_for
from suites.memory.pieces import Piece, pieces
from suites.memory.search import Found, largest
from suites.memory.stores import compiler_for, sizer_for
from twinvae.bench.aot.compilers import missing
from twinvae.bench.aot.programs import Answer
from twinvae.bench.environment import prepare_jax
from twinvae.bench.jsonl import JsonLines
from twinvae.bench.places import BASELINES
from twinvae.bench.provenance import commit
from twinvae.jax.chips import CHIPS

BACKEND, PRESET = "flax", "cogvideox-2b"
WAYS: tuple[Way, ...] = ("one program", "streamed", "tiled")
FILE = "frontier.jsonl"
# Machine code, which no answer and no peak holds; the compiler minds it only where it compiles all that is there. A
# decode of 4713 frames at 480x720 was said to need 31.22 GiB of a v6e's 31.25, and refused once it was made: 31.29. One
# of 4689, said to need 31.12, was taken.
CODE = 2**30 // 10
Ask = Callable[[Piece], Answer]


class Goal(NamedTuple):
    """What is made larger and larger.

    Args:
        case: the clip, in frames and pixels, for the number n.
        most: the largest n that is tried; guess: the first.
    """

    name: str
    case: Callable[[int, Way], Case]
    most: int
    guess: int
    words: Callable[[int], str]

    @property
    def of_frames(self) -> bool:
        return self.case(1, "streamed").frames != self.case(2, "streamed").frames


def _frames(height: int, width: int) -> Goal:
    def case(n: int, form: Way) -> Case:
        return Case("frontier", "decode", 8 * n + 1, height, width, form)

    return Goal(f"most frames at {height}x{width}", case, 16384, 10, lambda n: f"{8 * n + 1}")


def _sizes(frames: int) -> Goal:
    def case(n: int, form: Way) -> Case:
        return Case("frontier", "decode", frames, 32 * n, 48 * n, form)

    return Goal(f"largest frames of {frames}", case, 1024, 24, lambda n: f"{32 * n}x{48 * n}")


# Clips of 8n + 1 frames, whose first batch takes 3 latents and all others 2. Frames are 2:3, in multiples of 16.
GOALS = (_frames(480, 720), _frames(768, 1360), _sizes(49))


class Row(BaseModel):
    """How far one chip reaches in one way.

    Attributes:
        devices: of the chip that share the rows of a frame.
        n: the largest number that fits; 0 where not even 1 does. `value` is it in words.
        most: the largest number that was tried; `n` may be that, and the truth beyond it.
        at, next: what the largest that fits needs, and the next one, in bytes per device; None where not known.
        points: number and need of all that was asked for, and of smaller clips of which that is known.
        x: frames, or rows of a frame, of each of the points.
        compiled: whether the programs of the largest were compiled in full, and fit.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    chip: str
    budget: int
    devices: int
    form: Way
    goal: str
    n: int
    most: int
    value: str
    at: int | None
    next: int | None
    points: tuple[tuple[int, int], ...]
    x: tuple[int, ...]
    compiled: bool = False
    backend: str
    preset: str
    dtype: str
    compiler: str
    date: str
    commit: str

    @property
    def key(self) -> tuple[int, str, str]:
        return self.budget, self.goal, self.form

    @property
    def words(self) -> str:
        """The value, and whether that was compiled."""
        return self.value + ", compiled" * self.compiled

    def __str__(self) -> str:
        return f"{self.chip} {self.goal} {self.form}"


def reach(
    goal: Goal,
    form: Way,
    budget: int,
    peak_of: Callable[[Case], int | None],
    hints: Mapping[int, int] = {},
    before: int = 0,
) -> Found:
    """The search for one way of one goal."""
    return largest(lambda n: peak_of(goal.case(n, form)), budget, goal.most, goal.guess, hints, before)


def hints_of(rows: Sequence[Row], goal: Goal, form: Way, devices: int) -> dict[int, int]:
    """What to expect of each device from what chips were asked before: a program needs much the same on all of them."""
    return {
        n: peak * row.devices // devices
        for row in rows
        if (row.goal, row.form) == (goal.name, form)
        for n, peak in row.points
    }


def peak_in(case: Case, vae: twinvae.VideoVAE, ask: Ask, devices: int = 1) -> int | None:
    """The peak of a case, per device, with code that no compiler has minded; None where nothing is known of it."""
    peaks = []
    for piece in pieces(case, vae.config, vae.dtype):
        answer = ask(piece)
        if not answer.known or answer.program.peak_bytes is None:
            return None
        code = 0 if answer.program.fits and not piece.beside else CODE
        peaks.append(answer.program.peak_bytes + code + piece.beside // devices)
    return max(peaks)


def smaller(n: int) -> list[int]:
    """Numbers below one, a quarter of the one before each: where a curve up to it is looked at."""
    return [n // 4**step for step in range(1, n.bit_length()) if n // 4**step]


def only_sized(case: Case, vae: twinvae.VideoVAE, ask: Ask) -> list[Piece]:
    """Programs of a case that were not compiled for a chip that has room for them."""
    return [piece for piece in pieces(case, vae.config, vae.dtype) if not ask(piece).program.fits]


def read_rows(path: Path) -> list[Row]:
    """The frontier as it was found last.

    Raises:
        ValueError: a line that is no row.
    """
    return _lines(path).read()


def write_row(path: Path, row: Row) -> None:
    """Put a row in its place; the others stay."""
    rows = {one.key: one for one in read_rows(path)} | {row.key: row}
    _lines(path).write(rows[key] for key in sorted(rows))


def _lines(path: Path) -> JsonLines[Row]:
    return JsonLines(path, Row, "delete it, and run the frontier again", appended=False)


def loaded() -> twinvae.VideoVAE:
    """The backend whose reach is found out, in its leanest form."""
    return twinvae.load(BACKEND, preset=PRESET, dtype=DTYPE, memory_budget=LEANEST)


def lowered_again(chip: str, operation: str, piece: Piece, devices: int) -> jax.stages.Lowered:
    """A program of it, in a process that has nothing yet."""
    return lowered_for(chip, loaded(), operation, piece, devices)


def explore(
    chip: str, baseline_dir: Path, console: Console, goals: Sequence[Goal] = GOALS, forms: Sequence[Way] = WAYS,
    confirm: bool = False, curve: bool = False,
) -> None:  # fmt: skip
    """Find and keep rows of a chip.

    Args:
        confirm: compile the largest of each in full.
        curve: ask for smaller clips, too; else their peaks are kept only where they are known.
    """
    spec = CHIPS[chip]
    budget = spec.usable_bytes
    console.print(
        f"{chip}: {spec.usable_gib} GiB" + (f" on each of {spec.devices} devices" if spec.devices > 1 else "")
    )
    vae = loaded()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(chip, total=len(goals) * len(forms))

        sizer = sizer_for(chip, baseline_dir, compiler_for(chip, baseline_dir, large=True))
        again = partial(lowered_again, chip) if spec.kind == "tpu" else None
        programs = Programs(vae, PRESET, chip, sizer, lambda name: progress.console.print(f"  asking for {name}"),
                            again)  # fmt: skip
        for goal in goals:
            for form in forms:
                progress.update(task, description=f"{chip}, {goal.name}, {form}")
                # A tile is small: one device takes it whole.
                devices = 1 if form == "tiled" else spec.devices

                def ask(piece: Piece, devices: int = devices) -> Answer:
                    return programs.ask("decode", piece, devices)

                def ask_for_curve(piece: Piece, devices: int = devices) -> Answer:
                    known = curve or not programs.needs_compiling("decode", piece, devices)
                    return programs.ask("decode", piece, devices) if known else Answer("needs compiling", None)

                def peak_of(case: Case, ask: Ask = ask, devices: int = devices) -> int | None:
                    return peak_in(case, vae, ask, devices)

                rows = read_rows(baseline_dir / FILE)
                before = next((row.n for row in rows if (row.chip, row.goal, row.form) == (chip, goal.name, form)), 0)
                hints = hints_of(rows, goal, form, devices)
                found = reach(goal, form, budget, peak_of, hints, before)
                while found.value and (left := only_sized(goal.case(found.value, form), vae, ask)) and confirm:
                    for piece in left:
                        programs.confirm("decode", piece, devices)
                    found = reach(goal, form, budget, peak_of, found.known, found.value)
                below = {n: peak_in(goal.case(n, form), vae, ask_for_curve, devices) for n in smaller(found.value)}
                row = row_of(chip, goal, form, devices, found, sizer.version, found.value > 0 and not left, below)
                write_row(baseline_dir / FILE, row)
                progress.console.print(f"{chip}, {goal.name}, {form}: {row.words}")
                progress.advance(task)


def row_of(
    chip: str, goal: Goal, form: Way, devices: int, found: Found, compiler: str, compiled: bool = False,
    below: Mapping[int, int | None] = {},
) -> Row:  # fmt: skip
    """What was found, as it is kept; `below` are smaller numbers and their peaks."""
    known = sorted((n, peak) for n, peak in {**below, **found.known}.items() if peak is not None)
    cases = [goal.case(n, form) for n, _ in known]
    value = goal.words(found.value) if found.value else "none"
    return Row(
        chip=chip, budget=CHIPS[chip].memory, devices=devices, form=form, goal=goal.name, n=found.value,
        most=goal.most, value=f"{value} or more" if found.value == goal.most else value,
        at=found.peaks.get(found.value), next=found.next_peak, points=tuple(known),
        x=tuple(case.frames if goal.of_frames else case.height for case in cases), compiled=compiled,
        backend=BACKEND, preset=PRESET, dtype=DTYPE,
        compiler=compiler, date=datetime.now(UTC).isoformat(timespec="seconds"), commit=commit(),
    )  # fmt: skip


Named = StrEnum("Named", {goal.name: goal.name for goal in GOALS})
NamedWay = StrEnum("Way", {form: form for form in WAYS})
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    chips: Annotated[list[str] | None, typer.Argument(help=f"of {', '.join(CHIPS)} (default: all)")] = None,
    baseline_dir: Annotated[Path, typer.Option(metavar="DIR", help="where answers are kept")] = BASELINES,
    form: Annotated[list[NamedWay] | None, typer.Option(help="this way alone; may be repeated (default: all)")] = None,
    goal: Annotated[list[Named] | None, typer.Option(help="this alone; may be repeated (default: all)")] = None,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="compile the largest that fits of each in full, minutes a program")
    ] = False,
    curve: Annotated[
        bool, typer.Option("--curve", help="ask for smaller clips as well, for the picture, minutes each")
    ] = False,
) -> None:
    """How far a chip's memory reaches, by its compiler.

    Exit status: 0 well, 2 nothing could be done, 130 interrupted.
    """
    goals = [one for one in GOALS if not goal or one.name in goal]
    forms = [one for one in WAYS if not form or one in form]
    unknown = sorted(set(chips or ()) - CHIPS.keys())
    words = f"unknown chip {', '.join(unknown)}: choose from {', '.join(CHIPS)}" if unknown else ""
    if words := words or next(filter(None, map(missing, chips or CHIPS)), ""):
        print(words, file=sys.stderr)
        raise typer.Exit(2)
    prepare_jax()
    try:
        for chip in chips or CHIPS:
            explore(chip, baseline_dir, Console(), goals, forms, confirm, curve)
    except KeyboardInterrupt:
        print("interrupted: what was compiled is kept, and the same command goes on from there", file=sys.stderr)
        raise typer.Exit(130) from None


def in_order(rows: list[Row]) -> list[Row]:
    """Rows in the order in which they are read: by budget, goal and form."""
    order = {goal.name: place for place, goal in enumerate(GOALS)}
    forms = {form: place for place, form in enumerate(WAYS)}
    return sorted(rows, key=lambda row: (row.budget, order.get(row.goal, 9), forms[row.form]))


if __name__ == "__main__":
    app()
