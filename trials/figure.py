"""Figure of the faults page: how many faults were caught after how many seconds, by the suite that raised the alarm."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from trials.catalogue import Fault
from trials.results import Trial
from twinvae.bench.drawing import COLOURS, INK, STYLE, Picture, svg

CAPTION = (
    "Faults caught over the seconds that it took, imports of JAX and PyTorch included, by the suite that was the first "
    "to raise an alarm."
)


def draw_faults(trials: Sequence[Trial[Fault]]) -> list[Picture]:
    """A step curve per suite, and one of all; nothing where nothing was caught."""
    caught = sorted((one.outcome.seconds, one.outcome.suite) for one in trials if one.status == "caught")
    if not caught:
        return []
    curves = {"all": [seconds for seconds, _ in caught]}
    for suite in sorted({suite for _, suite in caught}):
        curves[suite or "no suite"] = [seconds for seconds, by in caught if by == suite]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 4), layout="constrained")
        ax = figure.subplots()
        tried = sum(not one.planted.equivalent for one in trials)
        ax.axhline(tried, color=INK, linewidth=0.8, linestyle=":", label=f"tried ({tried})")
        for number, (name, seconds) in enumerate(curves.items()):
            look = {"color": (INK, *COLOURS)[number % 5], "linestyle": "-" if number < 5 else "--"}
            ends = [0, *seconds, caught[-1][0]], [*range(len(seconds) + 1), len(seconds)]
            ax.step(*ends, where="post", label=f"{name} ({len(seconds)})", **look)
        ax.set(xlabel="seconds from the start of the process to the first alarm", ylabel="faults caught", ylim=0)
        ax.grid(True, linewidth=0.6)
        figure.legend(frameon=False, loc="outside right upper")
        return [Picture("faults-caught.svg", svg(figure), CAPTION)]
