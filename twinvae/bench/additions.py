"""What a suite adds: the bars of its `bars.py`, the pictures of its `figure.py`, the tables of its `page.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import matplotlib

from twinvae.bench.bars import Held
from twinvae.bench.drawing import STYLE, Picture
from twinvae.bench.records import RunData
from twinvae.bench.verdicts import Verdict

Draw = Callable[[RunData, Sequence[Verdict]], Iterator[Picture]]
Table = Callable[..., Any]


def pictures_of(suite: str) -> tuple[Draw, ...]:
    """`PICTURES` of `suites/<suite>/figure.py`; none where there is no such file."""
    return _constant(suite, "figure", "PICTURES")


def tables_of(suite: str) -> tuple[Table, ...]:
    """`TABLES` of `suites/<suite>/page.py`, which its template calls by their names; none where there is none."""
    return _constant(suite, "page", "TABLES")


def bars_of(suite: str) -> tuple[Held, ...]:
    """`BARS` of `suites/<suite>/bars.py`: what the suite holds to which bars; none where there is no such file."""
    return _constant(suite, "bars", "BARS")


def draw(data: RunData, verdicts: Sequence[Verdict]) -> list[Picture]:
    """Every picture that the suite has records or exhibits for, legible on a light and on a dark page."""
    with matplotlib.rc_context(STYLE):
        return [picture for drawn in pictures_of(data.run.suite) for picture in drawn(data, verdicts)]


def _constant(suite: str, module: str, name: str) -> tuple[Any, ...]:
    if find_spec(f"suites.{suite}") is None or find_spec(f"suites.{suite}.{module}") is None:
        return ()
    return getattr(import_module(f"suites.{suite}.{module}"), name)
