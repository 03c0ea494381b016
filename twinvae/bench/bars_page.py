"""`python -m twinvae.bench.bars_page`: write docs/bars.md, every bar with its reason and what the baselines hold."""

from __future__ import annotations

import math
import sys
from pathlib import Path

from twinvae.bench.additions import bars_of
from twinvae.bench.bars import Bar, Held
from twinvae.bench.baselines import read_baseline
from twinvae.bench.files import write_whole
from twinvae.bench.pages import many, table
from twinvae.bench.places import BASELINES, ROOT, suite_names
from twinvae.bench.records import Key
from twinvae.bench.verdicts import number

PAGE = ROOT / "docs" / "bars.md"
COMMAND = "python -m twinvae.bench.bars_page"
INTRODUCTION = f"""# Every bar, and why it is that number

Written by `{COMMAND}` from the suites' own bars (`suites/*/bars.py`, `twinvae/bench/bars.py`) and the baselines.

- **limit**: a value past it is *wrong*, on a first run too; "= 0" is exact. Where there is none, either the test
  computes it (the reason says how) or the value is held to its baseline alone.
- **tolerance**: the factor by which a value may get worse than its baseline before it is *regressed*; 1: not at all.
- **floor**: values at least this good are all equal.
- **worst today**: the worst value that the baselines of all platforms hold, and of how many.
"""


def bars_page(baseline_dir: Path = BASELINES) -> str:
    """The page: per suite and per thing that is held, its bars, what the baselines hold, and the reasons.

    Raises:
        ValueError: a baseline is not valid.
    """
    parts, told = [INTRODUCTION], {}
    for suite in suite_names():
        helds, values = bars_of(suite), baseline_values(suite, baseline_dir)
        parts.append(f"## {suite}\n")
        for index, held in enumerate(helds):
            of_it = [(key.metric, value) for key, value in values if held_by(helds, key) == index]
            parts.append(_section(held, of_it, told, f"{suite}, {held.what}"))
    return "\n".join(parts)


def baseline_values(suite: str, baseline_dir: Path = BASELINES) -> list[tuple[Key, float]]:
    """What the baselines of every platform hold of a suite, without what has no value."""
    baselines = [read_baseline(path) for path in sorted(Path(baseline_dir).glob(f"*/{suite}.json"))]
    return [
        (entry.key(suite), entry.value)
        for baseline in baselines
        for entry in baseline.entries
        if entry.value is not None and not math.isnan(entry.value)
    ]


def held_by(helds: tuple[Held, ...], key: Key) -> int | None:
    """Which of a suite's bars a value is held to: the first that is about it."""
    return next((index for index, held in enumerate(helds) if held.bar(key)), None)


def _section(held: Held, values: list[tuple[str, float]], told: dict[str, str], title: str) -> str:
    """A table and its reasons; one that was told before is said to be that of `told[reason]`."""
    rows = [
        [metric, _limit(bar), _tolerance(bar), near_one(bar.floor) if bar.floor else "", bar.better, bar.unit,
         _worst(bar, [value for name, value in values if name == metric])]
        for metric, bar in held.bars.items()
    ]  # fmt: skip
    reasons: dict[str, list[str]] = {}
    for metric, bar in held.bars.items():
        reasons.setdefault(bar.why, []).append(metric)
    headings = ["value", "limit", "tolerance", "floor", "better", "unit", "worst today"]
    lines = []
    for why, metrics in reasons.items():
        words = f"as for *{told[why]}*." if why in told else why
        lines.append(f"- {', '.join(metrics) if len(reasons) > 1 else 'All'}: {words}")
        told.setdefault(why, title)
    return "\n".join([f"### {held.what}\n", table(headings, rows), "", *lines, ""])


def _limit(bar: Bar) -> str:
    return "" if bar.limit is None else f"{'= ' if bar.better == 'equal' else ''}{near_one(bar.limit)}"


def _tolerance(bar: Bar) -> str:
    if bar.better == "equal":
        return "1"
    return "shown only" if math.isinf(bar.tolerance) else near_one(bar.tolerance)


def _worst(bar: Bar, values: list[float]) -> str:
    if not values:
        return "none"
    if bar.better == "equal":
        found = (
            f"{near_one(min(values))} to {near_one(max(values))}" if min(values) < max(values) else number(values[0])
        )
    else:
        found = near_one(max(values) if bar.better == "lower" else min(values))
    return f"{found} ({many(len(values), 'value')})"


def near_one(value: float) -> str:
    """A number as people read it; close to 1, by how much it is not."""
    off = abs(value - 1)
    return f"1 {'-' if value < 1 else '+'} {off:.1g}" if 0 < off < 1e-3 else number(value)


def main() -> int:
    write_whole(PAGE, bars_page())
    print(f"wrote {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
