"""Figures of scaling: how much faster so many chips are than one, a panel per clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from suites.scaling.page import curves
from twinvae.bench.drawing import COLOURS, INK, Picture, svg
from twinvae.bench.records import RunData
from twinvae.bench.verdicts import Verdict

LINES = {"speed_up": "the fastest split", "hidden": "the same, if sending is hidden", "time": "time alone",
         "rows": "rows alone"}  # fmt: skip


def speed_ups(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """Curves over chips, with what the first frame batch allows to devices in time."""
    found = curves(data)
    if not found:
        return
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    for ax, curve in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        chips = curve.arrays["chips"]
        ax.plot(chips, chips, color=INK, linewidth=0.8, linestyle=(0, (1, 2)), label="as many times as chips")
        for (name, label), colour in zip(LINES.items(), COLOURS, strict=True):
            dashed = (0, (4, 2)) if name == "hidden" else "-"
            ax.plot(chips, curve.arrays[name], color=colour, linestyle=dashed, marker="o", markersize=3, label=label)
        ax.axhline(float(curve.arrays["allowed"]), color=INK, linewidth=0.9, linestyle=(0, (5, 3)))
        ax.annotate("a clip over its first frame batch", (chips[0], float(curve.arrays["allowed"])), fontsize=7.5,
                    va="bottom")  # fmt: skip
        for scale, formatter in ((ax.set_xscale, ax.xaxis), (ax.set_yscale, ax.yaxis)):
            scale("log", base=2)
            formatter.set_major_formatter(StrMethodFormatter("{x:g}"))
            formatter.set_minor_formatter(NullFormatter())
        ax.set_xlabel(f"{curve.chip} chips")
        ax.set_ylabel("times as fast as one chip")
        ax.set_title(f"{curve.frames} frames", loc="left", fontsize=9)
        ax.grid(True, which="both", linewidth=0.4)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    caption = (
        f"Decoding at 768x1360 on {found[0].chip} chips, how many times as fast as on one, modelled: flops, bytes and "
        "what is sent, at published rates."
    )
    yield Picture(f"{data.run.suite}-speed-up.svg", svg(figure), caption)


PICTURES = (speed_ups,)
