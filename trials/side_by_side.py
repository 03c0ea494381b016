"""Trials side by side: each copy of the checkout is used by one at a time, and a terminal shows the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trials.processes import kill_all

Given, Result = TypeVar("Given"), TypeVar("Result")


def in_turns(
    given: Sequence[Given],
    copies: Sequence[Path],
    attempt: Callable[[Given, Path], Result],
    console: Console,
    title: str,
    line: Callable[[Result], str],
) -> Iterator[Result]:
    """Every result as it comes, with a line for it, and on a terminal a bar with the time left below."""
    free: Queue[Path] = Queue()
    for copy in copies:
        free.put(copy)

    def try_out(one: Given) -> Result:
        copy = free.get()
        try:
            return attempt(one, copy)
        finally:
            free.put(copy)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("left:"), TimeRemainingColumn())  # fmt: skip
    progress = Progress(*columns, console=console, disable=not console.is_terminal)
    with _pool(len(copies)) as pool, progress:
        task = progress.add_task(title, total=len(given))
        waiting: set[Future[Result]] = {pool.submit(try_out, one) for one in given}
        while waiting:
            ended, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in ended:
                result = future.result()
                progress.advance(task)
                console.print(line(result), highlight=False, soft_wrap=True)
                yield result


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that begin nothing new once the block is left, and whose processes are gone then."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        kill_all()
        pool.shutdown(wait=True)
