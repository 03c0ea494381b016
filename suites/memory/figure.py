"""Figures of the memory page: peaks under their ceilings, prediction beside measurement, peak over frames."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from suites.memory.bars import ARITHMETIC, MEASURED, PEAK, PREDICTED, TRAFFIC
from suites.memory.page import PUBLISHED, roofline_table
from twinvae.bench.drawing import ALARM, COLOURS, INK, Picture, load_arrays, svg
from twinvae.bench.records import RunData
from twinvae.bench.verdicts import Verdict
from twinvae.jax.chips import GPUS, TPUS

GREY = "#a9a9a9"
FORM_COLOURS = {"one program": COLOURS[0], "streamed": COLOURS[1], "tiled": COLOURS[2]}
MARKERS = {chip.memory: marker for kind in (TPUS, GPUS) for chip, marker in zip(kind.values(), "vos^D", strict=False)}
GROUPED = StrMethodFormatter("{x:,.0f}")


class Curve(NamedTuple):
    """Peaks of one form on one chip, over frames or rows of a frame."""

    form: str
    budget: int
    chip: str
    arrays: dict[str, np.ndarray]


def ceilings(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """Peaks by the compiler's word, each with its ceiling."""
    shown = [v for v in verdicts if v.key.metric == PEAK and v.value is not None]
    if not shown:
        return
    figure = Figure(figsize=(10, 0.9 + 0.34 * len(shown)), layout="constrained")
    ax = figure.subplots()
    for place, v in enumerate(reversed(shown)):
        look = ALARM if v.failing else COLOURS[0] if v.key.backend == "flax" else COLOURS[1]
        ax.barh(place, v.value, color=look, alpha=0.85, height=0.7)
        ax.annotate(f" {v.value:.2f} GB", (v.value, place), va="center", fontsize=7.5)
        if v.record.limit:
            ax.plot([v.record.limit] * 2, [place - 0.45, place + 0.45], color=INK, linewidth=2)
    labels = [f"{v.key.backend} {v.key.operation} {v.key.shape}, {v.key.case}" for v in reversed(shown)]
    ax.set_yticks(range(len(shown)), labels, fontsize=7.5)
    ax.set_xlabel("peak [GB]")
    ax.margins(x=0.12)
    ax.grid(True, axis="x", linewidth=0.6)
    yield Picture("memory-ceilings.svg", svg(figure), "Peak memory by the compiler's word; the lines are ceilings.")


def prediction(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """What compilers say beside what was measured, a panel per model."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for v in verdicts:
        if v.key.metric in (MEASURED, PREDICTED) and v.value is not None:
            label = f"{v.key.operation} {v.key.shape}, {'PyTorch' if v.key.backend == 'torch' else v.key.backend}"
            found.setdefault(v.key.preset, {}).setdefault(label, {})[v.key.metric] = 1000 * v.value
    if not found:
        return
    figure = Figure(figsize=(10, 0.8 + sum(0.6 + 0.36 * len(rows) for rows in found.values())), layout="constrained")
    axes = figure.subplots(len(found), squeeze=False, height_ratios=[1 + len(rows) for rows in found.values()])[:, 0]
    for ax, (preset, rows) in zip(axes, found.items(), strict=True):
        for place, values in enumerate(reversed(rows.values())):
            ax.barh(place + 0.2, values.get(MEASURED, np.nan), height=0.38, color=GREY,
                    label="measured" if place == 0 else None)  # fmt: skip
            ax.barh(place - 0.2, values.get(PREDICTED, np.nan), height=0.38, color=COLOURS[0],
                    label="by the compiler's word" if place == 0 else None)  # fmt: skip
        ax.set_yticks(range(len(rows)), list(reversed(rows)), fontsize=7.5)
        ax.set_title(preset, loc="left", fontsize=9)
        ax.grid(True, axis="x", linewidth=0.6)
    axes[-1].set_xlabel("memory above the idle process [MB]")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False)
    caption = (
        "Memory above the idle process: what the compiler says, and the peak resident size of a process of its own."
    )
    yield Picture("memory-prediction.svg", svg(figure), caption)


def rooflines(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """The least time that a card's programs can take, by their flops and by their bytes."""
    headings, rows = roofline_table(verdicts)
    columns = {metric: headings.index(f"{metric} [ms]") for metric in (ARITHMETIC, TRAFFIC)}
    rows = [row for row in rows if row[headings.index("bound by")]]  # of the others nothing is known
    if not rows:
        return
    figure = Figure(figsize=(10, 0.9 + 0.5 * len(rows)), layout="constrained")
    ax = figure.subplots()
    places = np.arange(len(rows))[::-1]
    for (metric, column), offset, colour in zip(columns.items(), (0.2, -0.2), COLOURS, strict=False):
        values = [float(row[column].split()[0]) for row in rows]
        ax.barh(places + offset, values, height=0.38, color=colour, alpha=0.85, label=metric)
        for place, value in zip(places, values, strict=True):
            ax.annotate(f" {value:.3g} ms", (value, place + offset), va="center", fontsize=7.5)
    ax.set_yticks(places, [f"{row[3]} {row[1]} {row[2]}, {row[0]}, {row[4]}" for row in rows], fontsize=7.5)
    ax.set_xscale("log")
    ax.set_xlabel("least time [ms]")
    ax.margins(x=0.12)
    ax.grid(True, axis="x", linewidth=0.6)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    yield Picture("memory-rooflines.svg", svg(figure), "The least time of a card's programs; the longer counts.")


def frontier(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """Peak over frames or over rows of a frame, a panel per goal, every chip's memory and the published peaks drawn in.

    Forms are told by colour, chips by marker.
    """
    panels: dict[str, list[Curve]] = {}
    for exhibit in data.exhibits:
        if exhibit.name.startswith("frontier ") and (arrays := load_arrays(data, exhibit)):
            goal, form, budget, chip = exhibit.caption.split("|")
            panels.setdefault(goal, []).append(Curve(form, int(budget), chip, arrays))
    if not panels:
        return
    of_tpus = any(curve.chip in TPUS for panel in panels.values() for curve in panel)
    figure = Figure(figsize=(10, 0.7 + 3.4 * len(panels)), layout="constrained")
    for ax, (goal, curves) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True):
        for form, budget, _, arrays in curves:
            order = np.argsort(arrays["x"])
            ax.plot(arrays["x"][order], arrays["peak"][order] / 1e9, color=FORM_COLOURS[form], linewidth=1.3,
                    marker=MARKERS.get(budget, "."), markersize=4.5, alpha=0.85)  # fmt: skip
        for one in PUBLISHED if of_tpus else ():
            if one.goal == goal and one.peak:
                ax.plot(one.frames, one.peak, "x", color=FORM_COLOURS[one.form], markersize=7, markeredgewidth=2)
        _draw_memories(ax, curves)
        ax.set_xscale("log")
        ax.set_yscale("log")
        ax.xaxis.set_major_formatter(GROUPED)
        ax.yaxis.set_major_formatter(GROUPED)
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_ylabel("peak of a device [GB]")
        ax.set_xlabel("frames" if goal.startswith("most frames") else "rows of a frame")
        ax.set_title(goal, loc="left", fontsize=9)
        ax.grid(True, which="both", linewidth=0.4)
    curves = [curve for panel in panels.values() for curve in panel]
    chips = sorted({(curve.budget, curve.chip) for curve in curves})
    keys = [Line2D([], [], color=FORM_COLOURS[form], label=form) for form in FORM_COLOURS]
    keys += [Line2D([], [], color=INK, linestyle="", marker=MARKERS.get(budget, "."), markersize=4.5, label=chip)
             for budget, chip in chips]  # fmt: skip
    if of_tpus:
        keys.append(Line2D([], [], color=INK, linestyle="", marker="x", markeredgewidth=2, label="published, v6e"))
    figure.legend(handles=keys, loc="outside upper center", ncols=len(keys), frameon=False, fontsize=8)
    caption = (
        "How far memory reaches: peak of a device over the size of the clip, where the compiler was asked; the lines "
        "are what a program may use on a device of each chip"
        + (", the crosses what was published." if of_tpus else ".")
    )
    yield Picture("memory-frontier.svg", svg(figure), caption)


def _draw_memories(ax: Axes, curves: Sequence[Curve]) -> None:
    """A line per chip; those of chips whose devices have about as much memory are one."""
    lines: dict[float, list[str]] = {}
    for budget, chip, usable in sorted({(b, c, float(a["budget"]) / 1e9) for _, b, c, a in curves}):
        near = next((line for line in lines if math.isclose(line, usable, rel_tol=0.03)), usable)
        lines.setdefault(near, []).append(f"{budget} GB ({chip})")
    for usable, chips in lines.items():
        ax.axhline(usable, color=INK, linewidth=0.9, linestyle=(0, (5, 3)))
        ax.annotate(", ".join(chips), (0, usable), xycoords=("axes fraction", "data"), fontsize=7.5, va="bottom")


PICTURES = (ceilings, rooflines, prediction, frontier)
