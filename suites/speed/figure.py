"""Figures of the speed page: speed against PyTorch, eager against jit, first calls, the baseline, and earlier runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from suites.speed.history import METRIC, WARM, contender, read_history, with_this_run
from twinvae.bench.drawing import ALARM, COLOURS, INK, Picture, svg
from twinvae.bench.records import Key, RunData
from twinvae.bench.verdicts import Verdict, number

STAGES = ("tracing", "lowering", "compiling", "running")
GREY = "#a9a9a9"
LONGEST_HISTORY = 30


def colour(name: str) -> str:
    """A contender's colour; what a backend's compiled call has, its eager one has too."""
    return {"PyTorch": GREY, "PyTorch, channels last": GREY, "torch.compile": COLOURS[3]}.get(name) or {
        "flax": COLOURS[0],
        "torchax": COLOURS[1],
    }.get(name.split()[0], COLOURS[2])


def timed(key: Key) -> str:
    return f"{key.operation} {key.shape}, {key.dtype}"


def by_preset(verdicts: Sequence[Verdict]) -> dict[str, dict[str, list[Verdict]]]:
    """Verdicts by preset, and by what is timed."""
    found: dict[str, dict[str, list[Verdict]]] = {}
    for v in verdicts:
        found.setdefault(v.key.preset, {}).setdefault(timed(v.key), []).append(v)
    return found


def of(verdicts: Sequence[Verdict], case: str, metric: str) -> list[Verdict]:
    """Those that have a value."""
    return [v for v in verdicts if (v.key.case, v.key.metric) == (case, metric) and v.value]


def speeds(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """How many times as fast as PyTorch, a panel per operation, size and dtype."""
    for preset, panels in by_preset(of(verdicts, WARM, METRIC)).items():
        figure = Figure(figsize=(10, sum(0.7 + 0.28 * (1 + len(inside)) for inside in panels.values())))
        figure.set_layout_engine("constrained")
        axes = figure.subplots(
            len(panels), squeeze=False, sharex=True, height_ratios=[1 + len(inside) for inside in panels.values()]
        )[:, 0]
        for ax, (title, inside) in zip(axes, panels.items(), strict=True):
            _speed_panel(ax, inside)
            ax.set_title(title, loc="left", fontsize=9)
        axes[-1].set_xlabel("times as fast as diffusers on PyTorch (eager)")
        caption = (
            f"Speed of a warm call, {preset}: times as fast as diffusers on PyTorch, timed in turn. Whiskers: the 95 % "
            "interval. To the right of the line is faster; hatched is run op by op."
        )
        yield Picture(f"speed-of-calls-{_file(preset)}.svg", svg(figure), caption)


def _speed_panel(ax: Axes, verdicts: Sequence[Verdict]) -> None:
    ordered = sorted(verdicts, key=lambda v: v.value, reverse=True)
    names = [*(contender(v.key.backend, v.key.mode) for v in ordered), "PyTorch"]
    for place, v in enumerate(ordered):
        if not v.record.sure:
            ax.annotate(" other work had the cores", (0, place), va="center", fontsize=7.5)
            continue
        speed, (low, high) = 1 / v.value, (1 / bound for bound in reversed(v.record.interval or (v.value, v.value)))
        ax.barh(place, speed, color=colour(names[place]), alpha=0.85, height=0.7,
                hatch="///" if v.key.mode == "eager" else None, edgecolor="#ffffff80")  # fmt: skip
        look, words = (ALARM, " worse") if v.failing else (INK, "")
        ax.plot([low, high], [place, place], color=look, linewidth=1.6)
        ax.annotate(f" {speed:.2f}x{words}", (max(high, speed), place), va="center", fontsize=7.5, color=look)
    ax.barh(len(ordered), 1, color=GREY, alpha=0.85, height=0.7)
    ax.axvline(1, color=INK, linewidth=0.9, linestyle=(0, (5, 3)))
    ax.set_yticks(range(len(names)), names, fontsize=8)
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.margins(x=0.12)
    ax.grid(True, axis="x", linewidth=0.6)


def eager_and_jit(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """Seconds of a call run op by op and compiled, per backend."""
    for preset, panels in by_preset(of(verdicts, WARM, "time of a call")).items():
        rows = []
        for title, inside in panels.items():
            for backend in dict.fromkeys(v.key.backend for v in inside if v.key.backend != "torch"):
                modes = {v.key.mode: v for v in inside if v.key.backend == backend}
                if {"eager", "jit"} <= modes.keys():
                    rows.append((f"{backend}, {title}", backend, modes["eager"].value, modes["jit"].value))
        if not rows:
            continue
        figure = Figure(figsize=(10, 0.9 + 0.34 * len(rows)), layout="constrained")
        ax = figure.subplots()
        for place, (_, backend, eager, jit) in enumerate(reversed(rows)):
            ax.plot([jit, eager], [place, place], color=INK, linewidth=1.2)
            ax.plot(jit, place, "o", color=colour(backend), markersize=7)
            ax.plot(eager, place, "o", color=colour(backend), markersize=7, fillstyle="none", markeredgewidth=1.6)
            ax.annotate(
                f"  jit is {eager / jit:.1f} times as fast", (max(eager, jit), place), va="center", fontsize=7.5
            )
        ax.set_yticks(range(len(rows)), [row[0] for row in reversed(rows)], fontsize=8)
        ax.set_xscale("log")
        ax.set_xlabel("seconds of a warm call")
        ax.margins(x=0.25, y=0.15)
        ax.grid(True, axis="x", which="both", linewidth=0.4)
        handles = [
            Line2D([], [], ls="", marker="o", color=INK, label="jit"),
            Line2D([], [], ls="", marker="o", color=INK, fillstyle="none", label="eager"),
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
        caption = f"Eager against jit, {preset}: the same call run op by op (ring) and compiled (dot)."
        yield Picture(f"speed-eager-and-jit-{_file(preset)}.svg", svg(figure), caption)


def first_calls(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """Seconds of the first call by stage."""
    found = [v for v in verdicts if v.key.case == "first call" and v.value is not None]
    for preset, panels in by_preset(found).items():
        rows: dict[tuple[str, str], dict[str, float]] = {}
        for title, inside in panels.items():
            for v in inside:
                stage = v.key.metric.removeprefix("first call, ")
                rows.setdefault((title, contender(v.key.backend, v.key.mode)), {})[stage] = v.value
        figure = Figure(figsize=(10, 1.1 + 0.26 * len(rows)), layout="constrained")
        ax = figure.subplots()
        for place, stages in enumerate(reversed(rows.values())):
            start = 0.0
            for stage, shade in zip(STAGES, (COLOURS[2], COLOURS[1], COLOURS[0], GREY), strict=True):
                ax.barh(place, stages.get(stage, 0.0), left=start, color=shade, height=0.72)
                start += stages.get(stage, 0.0)
            ax.annotate(f" {number(float(f'{start:.3g}'))} s", (start, place), va="center", fontsize=7.5)
        ax.set_yticks(range(len(rows)), [f"{name}, {title}" for title, name in reversed(rows)], fontsize=8)
        ax.set_xlabel("seconds")
        ax.margins(x=0.1, y=0.02)
        ax.grid(True, axis="x", linewidth=0.6)
        handles = [Patch(color=shade, label=stage) for stage, shade in
                   zip(STAGES, (COLOURS[2], COLOURS[1], COLOURS[0], GREY), strict=True)]  # fmt: skip
        figure.legend(handles=handles, loc="outside upper center", ncols=len(STAGES), frameon=False)
        caption = (
            f"Where the first call goes, {preset}. Of an eager call the stages are those of its operations, one by "
            "one; of PyTorch, torch.compile's compiling counts as running."
        )
        yield Picture(f"speed-first-calls-{_file(preset)}.svg", svg(figure), caption)


def against_baseline(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """Ratios over those of the baseline, and what of a change is allowed."""
    held = [v for v in verdicts if v.record and v.record.kind == "ratio" and v.before and v.value
            and v.record.tolerance < float("inf")]  # fmt: skip
    if not held:
        return
    held.sort(key=lambda v: v.factor)
    figure = Figure(figsize=(10, 0.9 + 0.27 * len(held)), layout="constrained")
    ax = figure.subplots()
    for place, v in enumerate(held):
        look = ALARM if v.failing else colour(contender(v.key.backend, v.key.mode))
        low, high = v.record.interval if v.record.sure and v.record.interval else (v.value, v.value)
        allowed = v.record.tolerance
        ax.barh(place, allowed - 1 / allowed, left=1 / allowed, color=INK, alpha=0.15, height=0.9)
        ax.plot([low / v.before, high / v.before], [place, place], color=look, linewidth=2)
        ax.plot(v.factor, place, "o", color=look, markersize=5, fillstyle="full" if v.record.sure else "none")
    labels = [f"{contender(v.key.backend, v.key.mode)}, {timed(v.key)}: {v.key.metric}" for v in held]
    ax.set_yticks(range(len(held)), labels, fontsize=7.5)
    ax.axvline(1, color=INK, linewidth=0.9)
    ax.set_xlabel("now over the baseline (below 1 is faster)")
    ax.margins(y=0.02)
    caption = (
        "Baseline against now: every ratio over the baseline's, with its 95 % interval; the band is what passes. Red "
        "got worse: its whole interval is past the band. A ring was measured on a busy machine, and says nothing."
    )
    yield Picture("speed-against-baseline.svg", svg(figure), caption)


def history(data: RunData, verdicts: Sequence[Verdict]) -> Iterator[Picture]:
    """Time over PyTorch's in the runs that pytest-benchmark has saved, and in this one."""
    runs = with_this_run(read_history(data.run.storage), data)[-LONGEST_HISTORY:]
    names = list(dict.fromkeys(line for run in runs for line in run.values if line[1] != "PyTorch"))
    if len(runs) < 2:
        return
    panels = list(dict.fromkeys(what for what, _ in names))
    figure = Figure(figsize=(10, 0.6 + 1.9 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False, sharex=True)[:, 0]
    for ax, panel in zip(axes, panels, strict=True):
        for what, who in names:
            places = [place for place, run in enumerate(runs) if (what, who) in run.values]
            if what == panel:
                ax.plot(places, [runs[place].values[what, who] for place in places], color=colour(who), label=who,
                        linestyle=":" if who.endswith("eager") else "-", marker=".", linewidth=1.3)  # fmt: skip
        ax.axhline(1, color=INK, linewidth=0.8, linestyle=(0, (5, 3)))
        ax.set_yscale("log")
        ax.set_ylabel("over PyTorch", fontsize=8)
        ax.set_title(panel, loc="left", fontsize=9)
        ax.legend(frameon=False, fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5))
        ax.grid(True, linewidth=0.5)
    axes[-1].set_xticks(range(len(runs)), [f"{run.date[:10]}\n{run.commit[:7]}" for run in runs], fontsize=7)
    caption = "History: time of a warm call over PyTorch's in every saved run (lower is faster), this one last."
    yield Picture("speed-history.svg", svg(figure), caption)


def _file(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".-" else "_" for letter in name)


PICTURES = (speeds, eager_and_jit, first_calls, against_baseline, history)
