"""Figure of the faults page: how many faults were caught after how many seconds, by the suite that raised the alarm."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trials.results import Trial
from twinvae.bench.drawing import COLOURS, INK, STYLE, Picture, svg


def draw_faults(trials: Sequence[Trial]) -> list[Picture]:
    """A step curve per suite, and one of all; nothing where nothing was caught."""
    caught = [trial for trial in trials if trial.status == "caught"]
    if not caught:
        return []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4), layout="constrained")
        ax = figure.subplots()
        longest = max(trial.seconds for trial in caught)
        tried = sum(not trial.equivalent for trial in trials)
        ax.axhline(tried, color=INK, linewidth=0.8, linestyle=":", label=f"tried ({tried})")
        _step(ax, caught, longest, f"all ({len(caught)})", color=INK, linewidth=1.8)
        looks = product(("-", "--"), COLOURS)
        for suite in sorted({trial.suite for trial in caught}):
            chosen = [trial for trial in caught if trial.suite == suite]
            line, colour = next(looks)
            _step(ax, chosen, longest, f"{suite or 'no suite'} ({len(chosen)})", color=colour, linestyle=line)
        ax.set_xlabel("seconds from the start of the process to the first alarm")
        ax.set_ylabel("faults caught")
        ax.set_xlim(0, longest * 1.02)
        ax.set_ylim(0)
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(True, linewidth=0.6)
        figure.legend(frameon=False, loc="outside right upper")
        caption = (
            "Faults caught over the seconds that it took, imports of JAX and PyTorch included, by the suite that was "
            "the first to raise an alarm."
        )
        return [Picture("faults-caught.svg", svg(figure), caption)]


def _step(ax: object, trials: Sequence[Trial], until: float, label: str, **style: object) -> None:
    seconds = sorted(trial.seconds for trial in trials)
    ax.step([0, *seconds, until], [*range(len(seconds) + 1), len(seconds)], where="post", label=label, **style)
