"""Figures of the generation page: a frame of each version of a video, and how far every frame is from diffusers'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from suites.generation.bars import FRAMES
from suites.generation.program_figure import meshes
from twinvae.bench.drawing import ALARM, COLOURS, Picture, load_arrays, svg
from twinvae.bench.records import RunData
from twinvae.bench.verdicts import Verdict


def frames(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """Exhibits named "frames, <kind>" hold `frame` and `expected`, and the `largest` difference of each frame."""
    shown = [(exhibit, arrays) for exhibit in data.exhibits
             if exhibit.name.startswith("frames, ") and (arrays := load_arrays(data, exhibit))]  # fmt: skip
    if not shown:
        return
    kinds = list(dict.fromkeys(exhibit.caption for exhibit, _ in shown))
    columns = 1 + max(sum(exhibit.caption == kind for exhibit, _ in shown) for kind in kinds)
    figure = Figure(figsize=(10, 2.4 * len(kinds) + 2.4), layout="constrained")
    grid = figure.add_gridspec(len(kinds) + 1, columns)
    errors = figure.add_subplot(grid[-1, :])
    for row, kind in enumerate(kinds):
        own = [(exhibit, arrays) for exhibit, arrays in shown if exhibit.caption == kind]
        ours = [(exhibit.backend, arrays["frame"]) for exhibit, arrays in own]
        pictures = [("diffusers", own[0][1]["expected"]), *ours]
        for column, (label, picture) in enumerate(pictures):
            ax = figure.add_subplot(grid[row, column])
            ax.imshow(np.clip(picture, 0, 1), interpolation="nearest")
            ax.set_title(f"{kind}, {label}", loc="left", fontsize=9)
            ax.set_axis_off()
    for place, (exhibit, arrays) in enumerate(shown):
        label, values = f"{exhibit.caption}, {exhibit.backend}", np.maximum(arrays["largest"], 1e-9)
        colour = COLOURS[place % len(COLOURS)]
        errors.plot(range(1, len(values) + 1), values, "o-", color=colour, label=label, markersize=4)
    errors.axhline(FRAMES["max_abs"].limit or 0, color=ALARM, linewidth=0.8, label="limit")
    errors.axhline(1 / 255, color=ALARM, linewidth=0.8, linestyle=":", label="a level of 8 bits")
    errors.set_yscale("log")
    errors.set_xlabel("frame")
    errors.set_ylabel("largest difference")
    errors.xaxis.set_major_locator(MaxNLocator(integer=True))
    errors.legend(frameon=False, fontsize=7, ncols=3)
    errors.grid(True, axis="y", linewidth=0.6)
    caption = (
        "A prompt to a video: the middle frame as diffusers' pipeline gives it and as our stages do, with each "
        "backend's VAE at their end, from tiny random models; and how far every frame is from diffusers', in [0, 1]."
    )
    yield Picture(f"{data.run.suite}-frames.svg", svg(figure), caption)


PICTURES = (frames, meshes)
