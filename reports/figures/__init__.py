"""Figures of the suites' pages, legible on a light and on a dark page, the same bytes for the same records."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import matplotlib

from reports.figures import frames, memory, parity, speed, tiling
from reports.figures.drawing import STYLE, Picture
from reports.verdicts import Verdict
from suites.harness.records import RunData

__all__ = ["Picture", "draw"]

# A suite's page shows what the functions named here draw.
FIGURES: dict[str, tuple[Callable[[RunData, Sequence[Verdict]], Iterator[Picture]], ...]] = {
    "parity": (parity.error_growth, parity.frames),
    "tiling": (tiling.seam_maps, tiling.overlap_curves),
    "frames": (frames.frame_map, frames.reach),
    "memory": (memory.ceilings, memory.prediction, memory.frontier),
    "speed": (speed.speeds, speed.eager_and_jit, speed.first_calls, speed.against_baseline, speed.history),
}


def draw(data: RunData, verdicts: Sequence[Verdict]) -> list[Picture]:
    """Every picture that the suite has records or exhibits for."""
    with matplotlib.rc_context(STYLE):
        return [picture for figure in FIGURES.get(data.run.suite, ()) for picture in figure(data, verdicts)]
