"""Tables of the speed page: times and rates per contender, exact costs, what the peak is, and earlier runs."""

from __future__ import annotations

from collections.abc import Sequence

from suites.speed.history import WARM, contender, read_history, with_this_run
from twinvae.bench.records import RunData
from twinvae.bench.verdicts import Verdict, number

Rows = tuple[list[str], list[list[str]]]  # headings, and cells


def speed_table(verdicts: Sequence[Verdict]) -> Rows:
    """A row per contender, in the order in which they were timed, slower ones below faster ones."""
    groups: dict[tuple[str, ...], dict[str, dict[str, Verdict]]] = {}
    for v in verdicts:
        if v.record and v.key.case == WARM:
            group = groups.setdefault((v.key.preset, v.key.operation, v.key.shape, v.key.dtype), {})
            group.setdefault(contender(v.key.backend, v.key.mode), {})[v.key.metric] = v
    rows = []
    for (preset, operation, shape, dtype), contenders in groups.items():
        fastest_first = sorted(contenders.items(), key=lambda one: _value(one[1].get("time of a call")))
        for name, metrics in fastest_first:
            time = metrics.get("time of a call")
            rows.append([
                preset, operation, shape, dtype, name,
                _with_interval(time),
                _with_interval(metrics.get("time over PyTorch")) or ("1" if name == "PyTorch" else ""),
                _with_interval(metrics.get("time over torch.compile")),
                *(_short(metrics.get(m)) for m in ("frames/s", "megapixels/s", "nominal FLOP/s", "share of the peak")),
                "" if time is None else str(time.record.runs),
                "" if time is None else time.record.note,
            ])  # fmt: skip
    headers = [
        "model", "operation", "frames x height x width", "dtype", "", "seconds", "over PyTorch", "over torch.compile",
        "frames/s", "Mpx/s", "GFLOP/s", "% of peak", "rounds", "",
    ]  # fmt: skip
    return headers, rows


def history_table(data: RunData) -> Rows:
    """The saved runs and this one: how many contenders, and the geometric mean of their times over PyTorch's."""
    runs = with_this_run(read_history(data.run.storage), data)
    names = sorted({who for run in runs for _, who in run.values if who != "PyTorch"})
    rows = []
    for run in runs:
        means = []
        for name in names:
            values = [value for (_, who), value in run.values.items() if who == name and value > 0]
            product = 1.0
            for value in values:
                product *= value ** (1 / len(values))
            means.append(f"{product:.3g} ({len(values)})" if values else "")
        rows.append([run.date, run.commit, *means])
    return ["date", "commit", *names], rows if len(runs) > 1 else []


def history_notes(data: RunData) -> tuple[str, ...]:
    """Files beside the saved runs that could not be used."""
    return read_history(data.run.storage).notes


def _value(verdict: Verdict | None) -> float:
    return float("inf") if verdict is None or verdict.value is None else verdict.value


def _short(verdict: Verdict | None) -> str:
    return "" if verdict is None or verdict.value is None else f"{verdict.value:.3g}"


def _with_interval(verdict: Verdict | None) -> str:
    """A value with its spread, ✗ where it is wrong or got worse and ? where that cannot be said."""
    if verdict is None:
        return ""
    if verdict.value is None:
        return verdict.record.note
    if not verdict.record.sure:
        return f"{number(verdict.value)} (disturbed){verdict.mark}"
    low, high = verdict.record.interval or (verdict.value, verdict.value)
    return f"{number(float(f'{verdict.value:.3g}'))} ({low:.3g} to {high:.3g}){verdict.mark}"


TABLES = (speed_table, history_table, history_notes)
