"""Figures of the training page: losses beside PyTorch's, and what a step takes of a chip's memory by batch."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.figure import Figure

from suites.training.bars import CURVE, LOSS, PEAK
from twinvae.bench.aot.compilers import chip_of
from twinvae.bench.drawing import ALARM, COLOURS, Picture, load_arrays, svg
from twinvae.bench.records import RunData
from twinvae.bench.verdicts import Verdict
from twinvae.jax.chips import CHIPS

GIB_IN_GB = 2**30 / 1e9
SMALLEST = 1e-17  # an error of 0 has no place on a logarithmic axis: it is drawn here


def losses(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """Exhibits named "losses, <model>" hold those `found`, those `expected`, and how far they are `apart`."""
    shown = [(exhibit.name.partition(", ")[2], arrays) for exhibit in data.exhibits
             if exhibit.name.startswith("losses, ") and (arrays := load_arrays(data, exhibit))]  # fmt: skip
    if not shown:
        return
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    curves, errors = figure.subplots(1, 2)
    for (model, arrays), colour in zip(shown, COLOURS, strict=False):
        steps = range(1, len(arrays["found"]) + 1)
        curves.plot(steps, arrays["expected"], color=colour, linewidth=4, alpha=0.3, label=f"{model}, PyTorch")
        curves.plot(steps, arrays["found"], color=colour, linewidth=1.2, label=f"{model}, Flax")
        errors.plot(steps, np.maximum(arrays["apart"], SMALLEST), "o-", color=colour, markersize=4, label=model)
    errors.axhline(CURVE[LOSS].limit or 0, color=ALARM, linewidth=0.8, label="limit")
    errors.set_yscale("log")
    for ax, label in ((curves, "loss"), (errors, "relative difference")):
        ax.set_xlabel("step")
        ax.set_ylabel(label)
        ax.legend(frameon=False, fontsize=7)
        ax.grid(True, axis="y", linewidth=0.6)
    caption = "The loss of each step beside that of PyTorch's AdamW on diffusers' class, and how far apart they are."
    yield Picture(f"{data.run.suite}-losses.svg", svg(figure), caption)


def memory(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """Peaks of the full architecture's step by batch, and what the chip has."""
    chip, points = chip_of(data.run.platform), []
    for verdict in verdicts:
        match = re.fullmatch(r"a step, batch (\d+), (.*)", verdict.key.case)
        if match and verdict.key.metric == PEAK and verdict.value is not None:
            points.append((match[2], int(match[1]), verdict.value))
    if chip is None or not points:
        return
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    ax = figure.subplots()
    for kept, colour in zip(sorted({kept for kept, _, _ in points}), COLOURS, strict=False):
        line = sorted((clips, peak) for other, clips, peak in points if other == kept)
        ax.plot(*zip(*line, strict=True), "o-", color=colour, label=kept)
        for clips, peak in line:
            ax.annotate(f" {peak:.3g}", (clips, peak), fontsize=8, va="bottom")
    ax.axhline(CHIPS[chip].usable_gib * GIB_IN_GB, color=ALARM, linewidth=0.8, label=f"what a {chip} has")
    ax.set_xlabel("clips of 17x256x256 in a step")
    ax.set_ylabel("peak [GB]")
    ax.set_ylim(0)
    ax.legend(frameon=False, fontsize=8)
    ax.grid(True, axis="y", linewidth=0.6)
    caption = (
        "Memory of a training step of the full architecture in bfloat16, with float32 weights, moments and average, by "
        "the compiler's word."
    )
    yield Picture(f"{data.run.suite}-memory.svg", svg(figure), caption)


PICTURES = (losses, memory)
