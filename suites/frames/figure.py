"""Figures of the frames page: what becomes of a clip's length, and how far the change of one frame reaches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from twinvae.bench.drawing import COLOURS, INK, Picture, load_arrays, svg
from twinvae.bench.records import RunData
from twinvae.bench.verdicts import Verdict

BLUE, ORANGE, GREEN, _ = COLOURS


def frame_map(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """Frames in, latents, and frames out, for every length without a gap from 1 on."""
    counts: dict[str, dict[int, int]] = {"latents": {}, "frames back": {}}
    for verdict in verdicts:
        if verdict.key.metric in counts and verdict.value is not None:
            counts[verdict.key.metric][int(verdict.key.case.split()[0])] = int(verdict.value)
    latents, back = counts.values()
    frames = [count for count in sorted(latents) if set(range(1, count + 1)) <= back.keys()]
    if not frames:
        return
    figure = Figure(figsize=(10, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, 1])
    above.plot([1, frames[-1]], [1, frames[-1]], color=INK, linewidth=0.8, label="as many as went in")
    kinds = {
        "comes back as long as it was": (GREEN, "o", [n for n in frames if back[n] == n]),
        "comes back longer": (BLUE, "^", [n for n in frames if back[n] > n]),
        "comes back shorter": (ORANGE, "v", [n for n in frames if back[n] < n]),
    }
    for label, (colour, marker, chosen) in kinds.items():
        above.vlines(chosen, chosen, [back[n] for n in chosen], color=colour, linewidth=1)
        above.plot(chosen, [back[n] for n in chosen], marker, color=colour, markersize=6, label=label)
    above.set_ylabel("frames out of the decoder")
    above.legend(frameon=False, loc="upper left")
    below.bar(frames, [latents[n] for n in frames], color=[_colour(n, kinds) for n in frames], width=0.75)
    for n in frames:
        below.annotate(str(latents[n]), (n, latents[n]), ha="center", va="bottom", fontsize=7)
    below.set_ylabel("latent frames")
    below.set_xlabel("frames into the encoder")
    below.set_xticks(frames, frames, fontsize=7)
    for ax in (above, below):
        ax.grid(True, axis="y", linewidth=0.6)
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        ax.margins(x=0.02)
    caption = (
        "What becomes of a clip's length. Green lengths survive; for the others, the line is what decoding "
        "adds or loses. Measured on diffusers, in its default frame batches (8 frames, 2 latents)."
    )
    yield Picture(f"{data.run.suite}-map.svg", svg(figure), caption)


def _colour(frames: int, kinds: dict[str, tuple[str, str, list[int]]]) -> str:
    return next(colour for colour, _, chosen in kinds.values() if frames in chosen)


def reach(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """How much each output frame changes with each input frame, a row per backend and a panel per clip.

    Exhibits named "reach, <case>" hold `change` [input frame, output frame] and the frame batches of the input
    frames and of the output frames, `batches_in` and `batches_out`.
    """
    shown = [(exhibit, arrays) for exhibit in data.exhibits
             if exhibit.name.startswith("reach, ") and (arrays := load_arrays(data, exhibit))]  # fmt: skip
    if not shown:
        return
    backends = sorted({exhibit.backend for exhibit, _ in shown})
    cases = list(dict.fromkeys(exhibit.caption for exhibit, _ in shown))
    largest = max(float(arrays["change"].max()) for _, arrays in shown)
    norm = LogNorm(largest / 1e4, largest)
    figure = Figure(figsize=(10, 3.6 * len(backends)), layout="constrained")
    grid = figure.subplots(len(backends), len(cases), squeeze=False)
    for exhibit, arrays in shown:
        ax = grid[backends.index(exhibit.backend), cases.index(exhibit.caption)]
        image = _reach_panel(ax, arrays, norm)
        ax.set_title(f"{exhibit.backend}, {exhibit.caption}", loc="left", fontsize=9)
    figure.colorbar(image, ax=grid, label="largest change of the output frame", extend="min", shrink=0.8)
    caption = (
        "How far a change of one value in one frame reaches: every frame of its own frame batch, because GroupNorm's "
        "statistics run over it, and every later one, through the conv cache. Nothing at all (no colour) of an earlier "
        "one. Lines part the frame batches."
    )
    yield Picture(f"{data.run.suite}-reach.svg", svg(figure), caption)


def _reach_panel(ax: Axes, arrays: dict[str, np.ndarray], norm: LogNorm) -> object:
    change = arrays["change"]
    image = ax.pcolormesh(np.ma.masked_equal(change, 0), cmap="viridis", norm=norm)
    for batches, line in ((arrays["batches_in"], ax.axhline), (arrays["batches_out"], ax.axvline)):
        for edge in np.flatnonzero(np.diff(batches)) + 1:
            line(edge, color=INK, linewidth=1)
    for axis, count in ((ax.xaxis, change.shape[1]), (ax.yaxis, change.shape[0])):
        numbers = np.arange(1, count + 1, 1 if count < 20 else 4)
        axis.set_ticks(numbers - 0.5, numbers, fontsize=7)
    ax.invert_yaxis()
    ax.set_xlabel("frame that comes out")
    ax.set_ylabel("frame that is changed")
    return image


def flickers(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """Flicker and PSNR frame by frame.

    Exhibits named "flicker" hold `flicker` of every frame but the first, what is `expected`, `psnr` of every frame, and
    the `edges`, frames that begin a frame batch.
    """
    shown = [(exhibit, arrays) for exhibit in data.exhibits
             if exhibit.name == "flicker" and (arrays := load_arrays(data, exhibit))]  # fmt: skip
    if not shown:
        return
    figure = Figure(figsize=(10, 4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    reference = shown[0][1]
    numbers = np.arange(1, len(reference["psnr"]) + 1)
    above.plot(numbers[1:], reference["expected"], color=INK, linewidth=5, alpha=0.4, label="diffusers")
    for (exhibit, arrays), colour, marker in zip(shown, COLOURS, "ox+s", strict=False):
        above.plot(numbers[1:], arrays["flicker"], marker, color=colour, fillstyle="none", label=exhibit.backend)
        below.plot(numbers, arrays["psnr"], marker, color=colour, fillstyle="none", label=exhibit.backend)
    for ax, label in ((above, "flicker"), (below, "PSNR [dB]")):
        for edge in reference["edges"]:
            ax.axvline(edge + 0.5, color=INK, linewidth=0.8, linestyle=":")
        ax.set_ylabel(label)
        ax.grid(True, axis="y", linewidth=0.6)
    above.legend(frameon=False, fontsize=8)
    below.set_xlabel("frame")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    caption = (
        "A real clip through trained weights: how far each frame's change from the one before is from the original's "
        "(mean, in [-1, 1]), and PSNR. Dotted lines part the frame batches."
    )
    yield Picture(f"{data.run.suite}-flicker.svg", svg(figure), caption)


PICTURES = (frame_map, reach, flickers)
