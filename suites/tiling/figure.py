"""Figures of the tiling page: where the seams are and what is to be seen of them, and what a larger overlap brings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from twinvae.bench.drawing import ALARM, COLOURS, INK, Picture, load_arrays, png, rgb, svg
from twinvae.bench.records import RunData
from twinvae.bench.verdicts import Verdict, number

METRICS = {"step across seams": "step across a seam\nover steps elsewhere", "mae": "mean difference\nto untiled",
           "psnr": "PSNR, tiled\nagainst untiled [dB]", "ssim": "SSIM, tiled\nagainst untiled"}  # fmt: skip
MARKERS = ("o", "x", "s", "+")


class Shown(NamedTuple):
    """An exhibit of the tiling suite, "seams <overlap> <model>", read.

    Its arrays: `frame` [height, width, channel], `difference` to the untiled result [height, width], `rows` and
    `columns` at which tiles begin, `extents` of the blends, mean `steps_down` and `steps_right` of the difference.
    """

    overlap: float
    model: str
    backend: str
    arrays: Mapping[str, np.ndarray]


def seam_maps(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """A tiled frame and its difference to the untiled one per overlap, with the places where tiles meet."""
    shown = []
    for exhibit in data.exhibits:
        kind, _, rest = exhibit.name.partition(" ")
        if kind == "seams" and (arrays := load_arrays(data, exhibit)):
            overlap, _, model = rest.partition(" ")
            shown.append(Shown(float(overlap), model, exhibit.backend, arrays))
    for model in dict.fromkeys(one.model for one in shown):
        figure = _seam_figure([one for one in shown if one.model == model])
        caption = (
            f"One frame of {model}, decoded in tiles, and how far it is from the frame decoded whole (mean over frames "
            "and channels). Red ticks mark where tiles meet. The curves on top and on the right are the mean step of "
            "that difference from each column and row of pixels to the next: a peak at a red line is a seam."
        )
        yield Picture(f"tiling-seams-{_file(model)}.png", png(figure), caption)


def _seam_figure(shown: Sequence[Shown]) -> Figure:
    overlaps = sorted({one.overlap for one in shown})
    alike = _alike(shown)
    height, width = shown[0].arrays["difference"].shape
    figure = Figure(figsize=(10, (1 + len(alike)) * (2.8 * height / width + 0.4) + 0.3), layout="constrained")
    axes = figure.subplots(1 + len(alike), len(overlaps), squeeze=False)
    brightest = max(float(np.quantile(one.arrays["difference"], 0.995)) for one in shown)
    steepest = max(float(one.arrays[name].max()) for one in shown for name in ("steps_down", "steps_right"))
    for column, overlap in enumerate(overlaps):
        frame = next(one for one in shown if one.overlap == overlap)
        axes[0, column].imshow(rgb(frame.arrays["frame"]), interpolation="nearest")
        axes[0, column].set_title(f"overlap {overlap:g}", loc="left", fontsize=10)
        _mark_seams(axes[0, column], frame)
        for ax, backends in zip(axes[1:, column], alike, strict=True):
            one = next((one for one in shown if (one.overlap, one.backend) == (overlap, backends[0])), None)
            if one is None:
                ax.set_axis_off()
                continue
            image = ax.imshow(one.arrays["difference"], cmap="magma", vmin=0, vmax=brightest, interpolation="nearest")
            _mark_seams(ax, one)
            _steps(ax, one, steepest)
    axes[0, 0].set_ylabel("decoded in tiles", fontsize=8)
    for ax, backends in zip(axes[1:, 0], alike, strict=True):
        ax.set_ylabel(f"{', '.join(backends)}: difference", fontsize=8)
    bar = figure.colorbar(image, ax=axes[1:], shrink=0.7, pad=0.01)
    bar.set_label("mean |tiled - untiled|", color=INK)
    bar.outline.set_visible(False)
    return figure


def _alike(shown: Sequence[Shown]) -> list[list[str]]:
    """Backends in groups whose maps nobody could tell apart: one of them is enough to look at."""
    groups: list[list[str]] = []
    maps = {(one.backend, one.overlap): one.arrays["difference"] for one in shown}

    def same(one: str, other: str) -> bool:
        of_both = [overlap for backend, overlap in maps if backend == one and (other, overlap) in maps]
        return all(np.allclose(maps[one, o], maps[other, o], rtol=0, atol=1e-2 * maps[one, o].max()) for o in of_both)

    for backend in sorted({one.backend for one in shown}):
        group = next((group for group in groups if same(group[0], backend)), None)
        if group is None:
            groups.append([backend])
        else:
            group.append(backend)
    return groups


def _mark_seams(ax: Axes, one: Shown) -> None:
    ax.set_xticks(one.arrays["columns"] - 0.5, one.arrays["columns"], fontsize=7)
    ax.set_yticks(one.arrays["rows"] - 0.5, one.arrays["rows"], fontsize=7)
    ax.tick_params(color=ALARM, labelcolor=ALARM, top=True, right=True, length=5, width=1.4)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _steps(ax: Axes, one: Shown, steepest: float) -> None:
    """The steps of the difference beside the map, on its own axes: along the width on top, along the height right."""
    top = ax.inset_axes((0, 1.03, 1, 0.24), sharex=ax)
    right = ax.inset_axes((1.02, 0, 0.14, 1), sharey=ax)
    across, down = one.arrays["steps_right"], one.arrays["steps_down"]
    top.plot(np.arange(len(across)) + 0.5, across, color=COLOURS[0], linewidth=0.8)
    right.plot(down, np.arange(len(down)) + 0.5, color=COLOURS[0], linewidth=0.8)
    top.set_ylim(0, 1.05 * steepest)
    right.set_xlim(0, 1.05 * steepest)
    for seam in one.arrays["columns"]:
        top.axvline(seam - 0.5, color=ALARM, linewidth=0.6, alpha=0.8)
    for seam in one.arrays["rows"]:
        right.axhline(seam - 0.5, color=ALARM, linewidth=0.6, alpha=0.8)
    for beside in (top, right):
        beside.set_axis_off()


def crops(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """Where two seams cross, at equal scale.

    Exhibits named "crops" hold the same part of a frame decoded in tiles with no overlap (`none`) and with the
    `default`, and `untiled`; [height, width, channel] in [-1, 1].
    """
    shown = [(exhibit.backend, arrays) for exhibit in data.exhibits
             if exhibit.name == "crops" and (arrays := load_arrays(data, exhibit))]  # fmt: skip
    if not shown:
        return
    titles = {"none": "tiles without an overlap", "default": "the default overlap", "untiled": "untiled"}
    figure = Figure(figsize=(10, 3.5 * len(shown)), layout="constrained")
    for row, (backend, arrays) in zip(figure.subplots(len(shown), 3, squeeze=False), shown, strict=True):
        for ax, (name, title) in zip(row, titles.items(), strict=True):
            ax.imshow(rgb(arrays[name]), interpolation="nearest")
            ax.set_title(f"{title}, {backend}", loc="left", fontsize=9)
            ax.set_axis_off()
    caption = "Trained weights on a real frame, where two seams cross: the same pixels at the same scale."
    yield Picture("tiling-crops.png", png(figure), caption)


def overlap_curves(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """What a larger overlap brings, a panel per metric."""
    curves = [v for v in verdicts if v.key.case.startswith("overlap ") and v.key.metric in METRICS and v.record]
    for preset in dict.fromkeys(v.key.preset for v in curves):
        chosen = [v for v in curves if v.key.preset == preset]
        figure = Figure(figsize=(10, 2.7), layout="constrained")
        for ax, (metric, title) in zip(figure.subplots(1, len(METRICS)), METRICS.items(), strict=True):
            _curve_panel(ax, [v for v in chosen if v.key.metric == metric])
            ax.set_title(title, fontsize=9, loc="left")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), frameon=False)
        caption = f"What a larger overlap brings ({preset}): no step across the seams as soon as tiles are blended."
        yield Picture(f"tiling-overlap-{_file(preset)}.svg", svg(figure), caption)


def _curve_panel(ax: Axes, verdicts: Sequence[Verdict]) -> None:
    backends = sorted({v.key.backend for v in verdicts})
    for index, backend in enumerate(backends):
        points = sorted((float(v.key.case.split()[1]), v) for v in verdicts if v.key.backend == backend)
        ax.plot([x for x, _ in points], [v.value for _, v in points], ("-", "--", ":")[index % 3],
                color=COLOURS[index % len(COLOURS)], marker=MARKERS[index % len(MARKERS)], markersize=5 + 2 * index,
                fillstyle="none", linewidth=1.3, label=backend)  # fmt: skip
        for x, verdict in points:
            if verdict.failing:
                ax.plot(x, verdict.value, "o", ms=11, mfc="none", mec=ALARM, mew=1.8)
    for limit in sorted({v.record.limit for v in verdicts if v.record.limit is not None}):
        ax.axhline(limit, color=ALARM, linewidth=0.8, linestyle=(0, (6, 4)), alpha=0.8)
        ax.annotate(f"limit {number(limit)} where blended", (1, limit), xycoords=("axes fraction", "data"), ha="right",
                    va="bottom", fontsize=7, color=ALARM)  # fmt: skip
    ax.set_xlabel("overlap, of a tile")
    ax.grid(True, linewidth=0.6)
    ax.margins(y=0.15)


def _file(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in name)


PICTURES = (crops, seam_maps, overlap_curves)
