"""Settings explored further: rows that hold every three values, and sessions that Hypothesis draws anew each time.

What goes wrong is written to `suites/parity/settings.jsonl` and `sessions.jsonl`, which the parity suite replays from
then on: commit it with the mend. The exit status is 0 where nothing was found, 1 where something was.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import pytest
import typer

from suites.parity import sessions, settings
from suites.parity.bars import SETTINGS
from suites.parity.sessions import START, Session
from suites.parity.settings import Row
from suites.parity.test_sessions import explored
from suites.parity.test_settings import reference, sides, worst
from twinvae import backends
from twinvae.bench.bars import check_dtypes, check_shapes
from twinvae.bench.effort import little_effort
from twinvae.registry import REFERENCE

MINUTES, EXAMPLES, STEPS = 30.0, 50, 20


def main(
    minutes: Annotated[float, typer.Option(help="after which no further row is begun")] = MINUTES,
    examples: Annotated[int, typer.Option(help="sessions of each backend")] = EXAMPLES,
    seed: Annotated[int | None, typer.Option(help="of rows, weights, clips and sessions (default: drawn)")] = None,
) -> None:
    seed = random.randrange(2**16) if seed is None else seed
    print(f"--seed {seed}")
    names = [name for name in backends() if name != REFERENCE]
    with little_effort():
        bad = list(bad_rows(names, seed, time.monotonic() + 60 * minutes))
        gone_wrong = [steps for name in names if (steps := bad_session(name, seed, examples))]
    settings.keep([row for row in bad if row not in settings.rows()])
    sessions.keep([steps for steps in gone_wrong if steps not in sessions.found()])
    print(f"found: {len(bad)} rows, {len(gone_wrong)} sessions")
    raise typer.Exit(int(bool(bad or gone_wrong)))


def bad_rows(names: list[str], seed: int, until: float) -> Iterator[Row]:
    """The rows of a stronger covering array, in random order, that a backend does not stand."""
    rows = settings.covering(3, str(seed))
    random.Random(seed).shuffle(rows)
    for number, row in enumerate(rows):
        if time.monotonic() > until:
            print(f"{number} of {len(rows)} rows were tried in the time given")
            return
        theirs = reference(row, number, seed)
        if said := [f"{name}: {wrong}" for name in names if (wrong := fault(row, name, theirs))]:
            print(*said, row, sep="\n")
            yield row


def fault(row: Row, name: str, theirs: tuple) -> str:
    """What is wrong with what a backend makes of a row; empty where nothing is."""
    try:
        found, exact, in_torch = sides(row, name, *theirs)
        check_dtypes(found, row["dtype"])
        check_shapes(found, exact)
    except (Exception, pytest.fail.Exception) as error:  # whatever goes wrong is what is looked for
        return f"{type(error).__name__}: {error}"
    bars = SETTINGS[row["dtype"]]
    values = worst(row["dtype"], found, exact, in_torch)
    return ", ".join(f"{metric} {value:.3g}" for metric, value in values.items() if not value <= bars[metric].limit)


def bad_session(name: str, seed: int, examples: int) -> list[list]:
    """The shortest session found that goes wrong; empty where none does."""
    model = settings.drawn_model(START, np.random.default_rng(seed))
    vae = settings.load(model, name, START)
    loaded, begun = dict(vars(vae)), []

    def begin() -> Session:
        vars(vae).update(loaded)
        begun.append(Session(vae, model, np.random.default_rng(seed)))
        return begun[-1]

    try:
        explored(begin, examples, STEPS, seed=seed)
    except Exception as error:
        print(f"{name}: {type(error).__name__}: {error}", json.dumps(begun[-1].done), sep="\n")
        return begun[-1].done
    return []


if __name__ == "__main__":
    typer.run(main)
