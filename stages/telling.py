"""What a stage says while it runs: lines, and how far it is with the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

QUIET = Console(quiet=True)
SECONDS = 10.0  # between two lines of progress, where there is no terminal to draw a bar in


def say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def counting(console: Console, what: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
    """A bar, or a line now and then; what is given is called with how many more are done."""
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TextColumn("left"), TimeRemainingColumn())  # fmt: skip
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task(what, total=total, completed=done)
            yield lambda more: progress.advance(task, more)
        return
    began = said = time.monotonic()
    first = done

    def on(more: int) -> None:
        nonlocal done, said
        done += more
        now = time.monotonic()
        if now - said >= SECONDS and done < total:
            left = (now - began) / (done - first) * (total - done)
            say(console, f"{what}: {done} of {total}, {left:.0f} s left")
            said = now

    yield on
