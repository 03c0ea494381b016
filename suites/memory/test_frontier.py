"""How far each chip's memory reaches, as `nox -s memory -- --frontier` found it last."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from suites.memory.bars import REACH
from suites.memory.frontier import FILE, GOALS, in_order, read_rows
from suites.memory.pieces import pieces
from twinvae.bench.aot.compilers import chip_of
from twinvae.bench.options import Options
from twinvae.jax.chips import CHIPS


def reached(options: Options) -> list[dict[str, Any]]:
    """Rows of all chips of a kind: each one's page shows the others beside it."""
    chip = chip_of(options.platform)
    if chip is None:
        return []
    try:
        rows = in_order(read_rows(options.baseline_dir / FILE))
    except ValueError as error:
        raise pytest.UsageError(f"--baseline-dir: {error}") from None
    return [
        {"row": row, "model": model, "backend": row.backend, "dtype": row.dtype}
        for row in rows
        if CHIPS[row.chip].kind == CHIPS[chip].kind
        for model in options.models
        if model.label == row.preset and row.backend in options.backends and row.dtype in options.dtypes
    ]


@pytest.mark.cases("row, model, backend, dtype", reached)
def test_a_chip_reaches_as_far_as_it_did(row, model, backend, dtype, sizes, chip, record, exhibit):
    goal = next(goal for goal in GOALS if goal.name == row.goal)
    over = f", {row.devices} devices" if row.devices > 1 else ""
    largest = goal.case(max(row.n, 1), row.form)
    changed = row.chip == chip and any(
        sizes.needs_compiling("decode", piece, row.devices) for piece in pieces(largest, model.config, dtype)
    )
    number = largest.frames if goal.of_frames else largest.height
    record(
        case=f"{row.budget} GB ({row.chip}{over}), {row.form}",
        operation="decode",
        mode="jit",
        metric=row.goal,
        value=None if changed else number if row.n else 0,
        **REACH[row.goal].fields,
        pending=f"nox -s memory -- --frontier {row.chip}" if changed else "",
        note=("was " if changed else "") + f"{row.words}; found {row.date[:10]} at commit {row.commit}, {row.compiler}",
    )
    exhibit(
        f"frontier {row.budget} {row.goal} {row.form}",
        {
            "x": np.array(row.x),
            "peak": np.array([peak for _, peak in row.points], np.float64),
            "budget": np.array(CHIPS[row.chip].usable_bytes),
        },
        caption=f"{row.goal}|{row.form}|{row.budget}|{row.chip}",
    )
