"""Figures of the parity page: the error growing from block to block, and frames beside PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from twinvae.bench.drawing import ALARM, COLOURS, INK, Picture, load_arrays, png, rgb, svg
from twinvae.bench.records import Exhibit, RunData
from twinvae.bench.verdicts import DTYPES, Verdict, number

LINES = {"jit": "-", "eager": ":"}
MARKERS = {"float64": "o", "float32": "s", "bfloat16": "^"}
SMALLEST = 1e-17  # an error of 0 has no place on a logarithmic axis: it is drawn here


def error_growth(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """The error after each block of a whole model, a panel per operation."""
    growth = [v for v in verdicts if v.record and v.record.order is not None and v.key.metric == "max_abs"]
    for preset in dict.fromkeys(v.key.preset for v in growth):
        chosen = [v for v in growth if v.key.preset == preset]
        panels = list(dict.fromkeys((v.key.operation, v.key.case, v.key.shape) for v in chosen))
        backends = sorted({v.key.backend for v in chosen})
        figure = Figure(figsize=(10, 4.4 * len(panels)), layout="constrained")
        axes = figure.subplots(len(panels), squeeze=False)[:, 0]
        for ax, panel in zip(axes, panels, strict=True):
            inside = [v for v in chosen if (v.key.operation, v.key.case, v.key.shape) == panel]
            _growth_panel(ax, inside, backends)
            ax.set_title(
                " · ".join(part for part in (panel[0], preset, panel[2]) if part), loc="left", pad=16
            )  # room for the words above
        _growth_legend(figure, chosen, backends)
        caption = (
            "Largest absolute difference to PyTorch after each block, in the order of computation. Red marks the first "
            "block that departs."
        )
        name = f"{data.run.suite}-error-growth{f'-{preset}' if preset else ''}.svg"
        yield Picture(name, svg(figure), caption)


def _growth_panel(ax: Axes, verdicts: Sequence[Verdict], backends: Sequence[str]) -> None:
    places: dict[str, int] = {}
    for verdict in sorted(verdicts, key=lambda v: v.record.order):
        places.setdefault(verdict.key.layer, len(places))
    curves: dict[tuple[str, str, str], list[Verdict]] = {}
    for verdict in sorted(verdicts, key=lambda v: v.record.order):
        curves.setdefault((verdict.key.backend, verdict.key.mode, verdict.key.dtype), []).append(verdict)
    departures: dict[str, set[str]] = {}
    for (backend, mode, dtype), curve in curves.items():
        xs = [places[v.key.layer] for v in curve]
        ax.plot(
            xs,
            [_drawn(v.value) for v in curve],
            LINES.get(mode, "-"),
            color=COLOURS[backends.index(backend) % len(COLOURS)],
            marker=MARKERS.get(dtype, "."),
            markersize=3.5,
            linewidth=1.3,
        )
        departed = next((index for index, v in enumerate(curve) if v.failing), None)
        if departed is not None:
            ax.plot(xs, [_drawn(v.before) for v in curve], "--", color=INK, linewidth=0.9)
            ax.plot(xs[departed], _drawn(curve[departed].value), "o", ms=11, mfc="none", mec=ALARM, mew=1.8)
            departures.setdefault(curve[departed].key.layer, set()).add(backend)
    for layer in sorted(departures):
        ax.axvline(places[layer], color=ALARM, linewidth=1)
        side = "left" if places[layer] < len(places) / 2 else "right"  # where there is room for the words
        ax.annotate(f" {', '.join(sorted(departures[layer]))} departs in {_short(layer)} ", (places[layer], 1),
                    xycoords=("data", "axes fraction"), ha=side, va="bottom", fontsize=8, color=ALARM)  # fmt: skip
    for dtype in dict.fromkeys(v.key.dtype for v in verdicts):
        limits = {v.record.limit for v in verdicts if v.key.dtype == dtype and v.record.limit is not None}
        for limit in sorted(limits):
            ax.axhline(limit, color=ALARM, linewidth=0.8, linestyle=(0, (6, 4)), alpha=0.8)
            ax.annotate(f"limit {dtype}", (1, limit), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                        fontsize=7, color=ALARM)  # fmt: skip
    ax.set_yscale("log")
    ax.set_ylabel("max abs error")
    ax.set_xticks(range(len(places)), [_short(layer) for layer in places], rotation=90, fontsize=7)
    ax.margins(x=0.02)
    ax.grid(True, which="major", linewidth=0.6)


def _growth_legend(figure: Figure, verdicts: Sequence[Verdict], backends: Sequence[str]) -> None:
    def present(names: Sequence[str], field: str) -> list[str]:
        return [name for name in names if any(getattr(v.key, field) == name for v in verdicts)]

    handles = [Line2D([], [], color=COLOURS[i % len(COLOURS)], lw=3, label=name) for i, name in enumerate(backends)]
    handles += [Line2D([], [], color=INK, ls=LINES[mode], label=mode) for mode in present(list(LINES), "mode")]
    handles += [
        Line2D([], [], color=INK, ls="", marker=MARKERS[dtype], ms=4, label=dtype) for dtype in present(DTYPES, "dtype")
    ]
    if any(v.failing and v.before is not None for v in verdicts):
        handles.append(Line2D([], [], color=INK, ls="--", lw=0.9, label="baseline"))
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)


def _drawn(value: float | None) -> float:
    if value is None or not math.isfinite(value):
        return math.nan
    return max(value, SMALLEST)


def _short(layer: str) -> str:
    """A block's module path without the half of the model that the panel's title names."""
    return layer.removeprefix("encoder.").removeprefix("decoder.")


def frames(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """A frame of the clip, of the reference and of each backend, and their difference, amplified.

    Exhibits named "frame" or "frame, <of what>" hold `original`, `reference` and `output`, `[height, width, channel]`
    in [-1, 1]; each name is a picture.
    """
    for name in sorted({one.name for one in data.exhibits if one.name.partition(", ")[0] == "frame"}, reverse=True):
        of_name = [exhibit for exhibit in data.exhibits if exhibit.name == name]
        if shown := [(exhibit, arrays) for exhibit in of_name if (arrays := load_arrays(data, exhibit))]:
            yield _frames(data.run.suite, name.partition(", ")[2], shown)


def _frames(suite: str, what: str, shown: Sequence[tuple[Exhibit, dict[str, np.ndarray]]]) -> Picture:
    height, width = shown[0][1]["original"].shape[:2]
    figure = Figure(figsize=(10, len(shown) * (2.5 * height / width + 0.3) + 0.3), layout="constrained")
    grid = figure.subplots(len(shown), 4, squeeze=False)
    for row, (exhibit, arrays) in zip(grid, shown, strict=True):
        error = np.abs(arrays["output"].astype(np.float64) - arrays["reference"]).max(axis=-1)
        largest = float(np.max(error, initial=0, where=np.isfinite(error)))
        factor = max(1.0, _one_digit_below(1 / largest)) if largest else 1.0
        images = (*(rgb(arrays[name]) for name in ("original", "reference", "output")), error * factor)
        who = " ".join(part for part in (exhibit.backend, exhibit.mode, exhibit.dtype) if part)
        titles = ("original", "PyTorch", who, f"difference times {factor:.0e}, max {number(largest)}")
        for ax, image, title in zip(row, images, titles, strict=True):
            ax.imshow(image, cmap="magma", vmin=0, vmax=1, interpolation="nearest")
            ax.set_title(title, fontsize=8)
            ax.set_axis_off()
    caption = "A frame of the clip, PyTorch's output, the backend's, and how far apart the two are (black: equal)."
    caption += f" Of weights that were {what}, in float64 on PyTorch's side." if what else ""
    return Picture(f"{suite}-frames{f'-{what}' if what else ''}.png", png(figure), caption)


def _one_digit_below(value: float) -> float:
    """The largest number of one digit that is not above the value."""
    unit = 10.0 ** math.floor(math.log10(value))
    return math.floor(value / unit) * unit


PICTURES = (error_growth, frames)
