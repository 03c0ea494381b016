"""Speed over time: what pytest-benchmark has saved of earlier runs of the speed suite (`--benchmark-autosave`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from suites.speed.cases import Contender
from twinvae.bench.records import RunData

OURS = "twinvae speed"  # what the suite signs its benchmarks with
METRIC = "time over PyTorch"
WARM = "warm call"

Line = tuple[str, str]  # what is timed, and who is


class Saved(NamedTuple):
    """One run: when, at which commit, and each contender's time over PyTorch's."""

    date: str
    commit: str
    values: Mapping[Line, float]


class History(NamedTuple):
    runs: tuple[Saved, ...]
    notes: tuple[str, ...]


def read_history(storage: str) -> History:
    """Every run that is saved in a folder of pytest-benchmark's, the oldest first.

    Files that are none of this suite's are left out, and said to be.
    """
    runs, notes = [], []
    for path in sorted(Path(storage).rglob("*.json")) if storage else ():
        try:
            found = _read(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            why = f"{type(error).__name__}: {error}"
            notes.append(f"{path.name} is left out: it is no file of pytest-benchmark ({why:.80})")
            continue
        if found.values:
            runs.append(found)
        else:
            notes.append(f"{path.name} is left out: it holds no times of the speed suite")
    return History(tuple(sorted(runs, key=lambda run: run.date)), tuple(notes))


def _read(content: dict) -> Saved:
    values = {}
    for benchmark in content["benchmarks"]:
        extra = benchmark["extra_info"]
        value = extra.get("values", {}).get(METRIC)
        if extra.get("suite") == OURS and extra.get("case") == WARM and isinstance(value, int | float):
            values[extra["group"], extra["contender"]] = float(value)
    commit = (content.get("commit_info") or {}).get("id") or "unknown"
    return Saved(str(content["datetime"])[:16], commit[:12], values)


def with_this_run(history: History, data: RunData) -> tuple[Saved, ...]:
    """The saved runs, and this one at their end where it is not among them."""
    values = {
        (f"{r.preset} {r.operation} {r.shape} {r.dtype}", contender(r.backend, r.mode)): r.value
        for r in data.records
        if r.metric == METRIC and r.case == WARM and r.value is not None
    }
    now = Saved(data.run.date[:16], data.run.commit, values)
    same = [run for run in history.runs if run.values == values]
    return history.runs if same or not values else (*history.runs, now)


def contender(backend: str, mode: str) -> str:
    """How the pages call who is timed."""
    return str(Contender(backend, mode))
