"""Figure of denoising's programs: memory of a chip, and what it is sent in each block, by mesh."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from suites.generation.cases import STEP
from suites.generation.program_bars import PEAK, SENT
from twinvae.bench.aot.compilers import chip_of
from twinvae.bench.drawing import ALARM, COLOURS, INK, Picture, svg
from twinvae.bench.records import RunData
from twinvae.bench.verdicts import Verdict


def meshes(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """A panel of peaks and one of bytes; the lines are limits."""
    of_steps = [v for v in verdicts if v.key.case.startswith(STEP) and v.value is not None]
    cases = list(dict.fromkeys(v.key.case for v in of_steps if v.key.metric == PEAK))
    if not cases:
        return
    figure = Figure(figsize=(10, 1.2 + 0.4 * len(cases)), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for ax, metric, label in zip(panels, (PEAK, SENT), ("peak of a chip [GiB]", "sent a block [MB]"), strict=True):
        for v in (v for v in of_steps if v.key.metric == metric):
            place = len(cases) - cases.index(v.key.case)
            ax.barh(place, v.value, color=ALARM if v.failing else COLOURS[0], alpha=0.85, height=0.7)
            behind = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  # a limit may be where the number is
            ax.annotate(
                f"{v.value:.3g}",
                (v.value, place),
                (4, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                bbox=behind,
            )
            if v.record.limit:
                ax.plot([v.record.limit] * 2, [place - 0.45, place + 0.45], color=INK, linewidth=2)
        ax.set_xlabel(label)
        ax.margins(x=0.15)
        ax.grid(True, axis="x", linewidth=0.6)
    panels[0].set_yticks(range(len(cases), 0, -1), [case.removeprefix(f"{STEP}, ") for case in cases], fontsize=7.5)
    caption = (
        "CogVideoX1.5-5B, a step with guidance of 81 frames at 768x1360 in bfloat16, by the compiler for "
        f"{chip_of(data.run.platform)}: memory of "
        "a chip and bytes that it is sent in each of 42 blocks. The lines are limits."
    )
    yield Picture(f"{data.run.suite}-meshes.svg", svg(figure), caption)
