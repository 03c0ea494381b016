"""The curve of a training: its log as a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from twinvae.bench.drawing import COLOURS, STYLE, svg

BESIDE = 4  # lines of the log on either side under one mean: each is of a few crops


def curve(log: Path) -> bytes:
    """Loss and PSNR of each logged step's crops, and their running means, as an SVG.

    Raises:
        OSError: there is no log.
    """
    known = {line["step"]: line for line in map(json.loads, log.read_text().splitlines())}  # again where it was stopped
    steps, lines = np.array(sorted(known)), [known[step] for step in sorted(known)]
    panels = {"loss": [line["loss"] for line in lines],
              "PSNR of the step's crops [dB]": [10 * np.log10(4 / line["square"]) for line in lines]}  # fmt: skip
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 3), layout="constrained")
        for ax, (label, values) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            ax.plot(steps, values, ".", color=COLOURS[0], alpha=0.5)
            ax.plot(steps, running_mean(np.array(values), BESIDE), color=COLOURS[1])
            ax.set_xlabel("step")
            ax.set_ylabel(label)
            ax.grid(True, axis="y", linewidth=0.6)
        return svg(figure)


def running_mean(values: np.ndarray, beside: int) -> np.ndarray:
    """The mean of each value and so many on either side of it, as far as there are."""
    return np.array([values[max(0, place - beside) : place + beside + 1].mean() for place in range(len(values))])
