"""Pages: Markdown out of verdicts, the most important first; the layout is in `templates/`."""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from twinvae.bench.additions import tables_of
from twinvae.bench.baselines import Baseline, changed_inputs
from twinvae.bench.drawing import Picture
from twinvae.bench.findings import (
    Explained,
    Finding,
    badness,
    find,
    first_departures,
    many,
    measured,
    movement,
    place,
)
from twinvae.bench.metrics import grade
from twinvae.bench.places import SUITES
from twinvae.bench.records import RunData
from twinvae.bench.verdicts import DTYPES, Verdict, counts, incomparable, number

FAILING_ROWS, WORST_ROWS = 30, 12


class Judged(NamedTuple):
    """A suite's run and what is thought of it."""

    data: RunData
    baseline: Baseline | None
    verdicts: list[Verdict]
    diagnosed: tuple[Finding, ...] = ()

    @property
    def suite(self) -> str:
        return self.data.run.suite

    @property
    def explained(self) -> list[Explained]:
        """Findings, the worst first, each with the values and failed tests that it explains."""
        return find(self.verdicts, self.data.failures, self.diagnosed, self.data.run.options)

    @property
    def failed(self) -> bool:
        return bool(self.data.failures) or any(verdict.failing for verdict in self.verdicts)

    @property
    def outcome(self) -> str:
        """One word or two, for titles and tables: the worst there is."""
        found = counts(self.verdicts)
        if self.failed:
            words = {"wrong": "wrong", "regressed": "got worse", "missing": "values missing"}
            return next((words[status] for status in words if status in found), "tests failed")
        if self.data.interrupted:
            return "interrupted"
        return "nothing got worse" if self.verdicts else "nothing measured"

    def first_layer(self, verdict: Verdict) -> str:
        """The block itself, or for a failing value of a whole model the one in which the error is born, if known."""
        layer = verdict.key.layer
        if verdict.failing and not layer and not self.diagnosed:
            births = {one.place: one.verdict.key.layer for one in reversed(first_departures(self.verdicts))}
            layer = births.get(place(verdict.key), "")
        return f"`{layer}`" if layer else ""


def suite_page(judged: Judged, pictures: Sequence[Picture]) -> str:
    """The page of a suite: its own template where there is one, the common one otherwise."""
    template = _TEMPLATES.select_template([f"{judged.suite}/page.md.j2", "suite.md.j2"])
    tables = {table.__name__: table for table in tables_of(judged.suite)}
    return template.render(judged=judged, run=judged.data.run, pictures=pictures, **tables)


class Elsewhere(NamedTuple):
    """A page of another run: its verdict, and the commit it is of; empty where it says neither."""

    verdict: str
    commit: str

    @classmethod
    def read(cls, page: Path) -> Elsewhere:
        """What a page says of itself: its first bold sentence, and the commit that it names first."""
        text = page.read_text(encoding="utf-8")
        commit = re.search(r"\bcommit ([0-9a-f]{7,40}(?:\+changes)?)", text)
        bold = re.search(r"^\*\*(.+?)\*\*$", text, re.MULTILINE)
        return cls(bold[1] if bold else "", commit[1] if commit else "")

    @property
    def failed(self) -> bool:
        return bool(re.search(r"(is|are) wrong|got worse;|got worse\.|missing|failed", self.verdict))


def index_page(platform: str, suites: Sequence[Judged], others: Mapping[str, Elsewhere] = {}) -> str:
    """The platform's first page.

    Args:
        others: pages that are not of these runs.
    """
    worst_first = sorted(suites, key=lambda judged: (not judged.failed, judged.suite))
    return _TEMPLATES.get_template("index.md.j2").render(platform=platform, suites=worst_first, others=others)


def headline(judged: Judged) -> str:
    """The verdict in one sentence."""
    found, failures = counts(judged.verdicts), len(judged.data.failures)
    if not judged.verdicts and not failures:
        return "Nothing was measured."
    total = many(len(judged.verdicts), "value")
    if judged.failed:
        wrong, worse = found.get("wrong", 0), found.get("regressed", 0)
        parts = [
            f"{wrong} of {total} {'is' if wrong == 1 else 'are'} wrong" if wrong else "",
            f"{worse}{'' if wrong else f' of {total}'} got worse" if worse else "",
            f"{many(found['missing'], 'value')} missing" if "missing" in found else "",
            f"{many(failures, 'test')} failed" if failures else "",
            f"{found['known']} known" if "known" in found else "",
            f"{found['improved']} improved" if "improved" in found else "",
        ]
        return "; ".join(part for part in parts if part) + "."
    rest = ", ".join(f"{count} {status}" for status, count in found.items())
    return f"Nothing got worse: {total} checked ({rest})."


def finding_lines(judged: Judged, most: int | None = None) -> list[str]:
    """Each finding in a line of Markdown, the worst first, with its evidence and what it explains below."""
    lines = []
    for finding, *_ in judged.explained[:most]:
        what = "value or test that fails" if finding.explains == 1 else "values and tests that fail"
        explains = f" Explains {finding.explains:,} {what}." if finding.explains else ""
        evidence = f" {finding.evidence[0]}" if finding.evidence else ""
        lines.append(f"**{finding.headline}**{evidence}{explains}")
    return lines


def notes(judged: Judged) -> list[str]:
    """What a reader must know before believing the numbers."""
    data, run, baseline = judged.data, judged.data.run, judged.baseline
    found = list(data.notes)
    if data.interrupted:
        found.insert(0, f"**Interrupted**: here is what was measured by then, {many(len(data.records), 'value')}.")
    elif not data.complete:
        found.append("Only a part of the suite was run: what is not here was not asked for.")
    disturbed = sum(not record.sure and not record.pending for record in data.records)
    if disturbed:
        found.append(
            f"**Other work had the cores**: {many(disturbed, 'value')} could not be measured well enough to be judged. "
            "Close it and run again."
        )
    if run.debugged:
        found.append("**Run with --debug-nans**: programs and times are not those of a run without it.")
    found += [f"Of {line}." for line in run.ports]
    if data.unjudged:
        found.append(f"Not judged, by what a backend lacks: {'; '.join(data.unjudged)}.")
    if run.nan_input:
        found.append("**The clip holds NaN**: where both sides are NaN they count as equal.")
    if baseline is None:
        found.append("There is no baseline yet, only limits are held against. `nox -s baseline` makes one.")
    else:
        reasons = dict.fromkeys(filter(None, (incomparable(run, source) for source in baseline.runs)))
        found += [f"Held against limits alone: {reason}." for reason in reasons]
        changed = changed_inputs(baseline.runs, run)
        if changed:
            found.append(f"Since the baseline: {', '.join(changed)}.")
    return found


def count_table(judged: Judged) -> str:
    """How many verdicts of each kind, per backend and dtype."""
    statuses = list(counts(judged.verdicts))
    rows = []
    for (backend, dtype), verdicts in by_backend_and_dtype(judged.verdicts).items():
        found = counts(verdicts)
        rows.append([backend or "-", dtype or "-", *(found.get(status, 0) or "" for status in statuses)])
    return table(["backend", "dtype", *statuses], rows)


def by_backend_and_dtype(verdicts: Iterable[Verdict]) -> dict[tuple[str, str], list[Verdict]]:
    """Verdicts in groups, backends in alphabetical order and dtypes from precise to coarse."""
    groups: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        groups.setdefault((verdict.key.backend, verdict.key.dtype), []).append(verdict)
    return dict(sorted(groups.items(), key=lambda item: (item[0][0], _dtype_rank(item[0][1]))))


def explained_tables(judged: Judged, explained: Explained) -> list[str]:
    """What a finding explains: its values, the worst first, and the tests that failed."""
    shown = sorted(explained.verdicts, key=badness)[:FAILING_ROWS]
    tables = [verdict_table(judged, shown)] if shown else []
    if more := len(explained.verdicts) - len(shown):
        tables.append(f"And {many(more, 'value')} more, marked ✗ in the tables below.")
    if explained.failures:
        rows = [[f"`{failure.test}`", shortened(failure.message, 160)] for failure in explained.failures]
        tables.append(table(["test", "message"], rows))
    return tables


def status_table(judged: Judged, status: str) -> str:
    """Verdicts of one kind, the worst first."""
    return verdict_table(judged, sorted((v for v in judged.verdicts if v.status == status), key=badness)[:WORST_ROWS])


def worst_table(judged: Judged) -> str:
    """What passes and is closest to its limit or to what the baseline allows."""
    passing = [
        v
        for v in judged.verdicts
        # A share of a bar says nothing of cosines and the like, which are all close to 1, nor of counts as they were.
        if not v.failing
        and v.used is not None
        and v.record.order is None
        and v.record.better == "lower"
        # Held to a baseline alone, it says something once it has left it.
        and not (v.record.limit is None and v.value == v.before)
        and not (v.used == 1 and v.value == v.before)
    ]
    return verdict_table(judged, sorted(passing, key=badness)[:WORST_ROWS])


def verdict_table(judged: Judged, verdicts: Sequence[Verdict]) -> str:
    """A row per verdict, with every column that any of them has something for."""
    columns: dict[str, Callable[[Verdict], str]] = {
        "case": lambda v: case(v, with_layer=False) + (", one block" if v.key.layer else ""),
        "backend": lambda v: v.key.backend,
        "mode": lambda v: v.key.mode,
        "dtype": lambda v: v.key.dtype,
        "metric": lambda v: v.key.metric,
        "baseline → now": movement,
        "factor": lambda v: f"{v.factor:.3g}x" if v.factor is not None and math.isfinite(v.factor) else "",
        "limit": lambda v: "" if v.record is None or v.record.limit is None else number(v.record.limit),
        "allowance used": lambda v: "" if v.failing or v.used is None else f"{100 * v.used:.0f} %",
        "why": lambda v: v.reason,
        "first layer that departs" if any(v.failing for v in verdicts) else "layer": judged.first_layer,
    }
    return table(list(columns), [[column(verdict) for column in columns.values()] for verdict in verdicts])


def grade_table(judged: Judged) -> str:
    """The grade by mean absolute error of each case, of the worst of its modes."""
    errors: dict[str, dict[tuple[str, str], float]] = {}
    for v in judged.verdicts:
        if v.key.metric == "mae" and v.record and v.record.order is None:
            row = errors.setdefault(case(v), {})
            place = (v.key.backend, v.key.dtype)
            error = math.nan if v.value is None else v.value
            row[place] = float(np.maximum(error, row.get(place, 0.0)))  # which keeps NaN, in any order
    places = sorted({place for row in errors.values() for place in row}, key=lambda p: (p[0], _dtype_rank(p[1])))
    rows = [[name, *(grade(row[p]) if p in row else "" for p in places)] for name, row in errors.items()]
    return table(["case", *(" ".join(place) for place in places)], rows)


def grade_counts(judged: Judged) -> str:
    """How many values of mean absolute error earn each grade, in words."""
    maes = [v.value for v in judged.verdicts if v.key.metric == "mae" and v.value is not None]
    words = ("exact", "excellent", "good", "suspicious", "drifting", "broken")
    found = Counter(grade(error) for error in maes)
    return ", ".join(f"{found[word]} {word}" for word in words if found[word])


class ValueTable(NamedTuple):
    title: str
    body: str


def value_tables(judged: Judged) -> list[ValueTable]:
    """Every value: a table per metric and dtype, a row per case (or block), a column per backend and mode."""
    groups: dict[tuple[bool, str, int, str, str], list[Verdict]] = {}
    metrics = list(dict.fromkeys(v.key.metric for v in judged.verdicts))
    for v in judged.verdicts:
        if v.record:
            of_blocks = v.record.order is not None
            rank = _dtype_rank(v.key.dtype)
            groups.setdefault((of_blocks, v.key.metric, rank, v.key.dtype, v.record.unit), []).append(v)
    tables = []
    for key in sorted(groups, key=lambda key: (key[0], metrics.index(key[1]), *key[2:])):
        of_blocks, metric, _, dtype, unit = key
        verdicts = groups[key]
        columns = sorted({(v.key.backend, v.key.mode) for v in verdicts})
        rows: dict[str, dict[tuple[str, str], str]] = {}
        for v in verdicts:
            rows.setdefault(case(v), {})[v.key.backend, v.key.mode] = measured(v, with_unit=False) + v.mark
        runs = sorted({v.record.runs for v in verdicts})
        title = metric + (f", {dtype}" if dtype else "") + (", block after block" if of_blocks else "")
        title += f" [{unit}]" if unit else ""
        title += f" ({'-'.join(map(str, {runs[0]: 0, runs[-1]: 0}))} run{'s' if runs != [1] else ''} each)"
        headers = ["case", *(" ".join(filter(None, column)) or "value" for column in columns)]
        body = [[name, *(row.get(column, "") for column in columns)] for name, row in rows.items()]
        tables.append(ValueTable(title, table(headers, body)))
    return tables


def provenance_table(judged: Judged) -> str:
    """Where the numbers come from, the run's and the baseline's."""
    data, run = judged.data, judged.data.run
    rows = [
        ["date", run.date],
        ["commit", run.commit],
        ["code of ports", ", ".join(f"{name} {code}" for name, code in run.sources.items() if code != run.commit)],
        ["versions", ", ".join(f"{name} {version}" for name, version in run.versions.items())],
        ["device", f"{run.device}, {run.cores} cores (machine {run.machine})"],
        ["weights", run.weights],
        ["clip", f"{run.clip}, {'holds NaN' if run.nan_input else 'no NaN'}"],
        ["seed", str(run.seed)],
        ["command", f"`{shlex.join(run.command)}`" if run.command else ""],
        [
            "selected",
            "; ".join(f"{axis}: {', '.join(chosen)}" for axis, chosen in run.selection if chosen and chosen is not True)
            or "all",
        ],
        ["length", f"{data.end.seconds:.0f} s" if data.end else "unknown: the run did not end"],
    ]
    for source in judged.baseline.runs if judged.baseline else ():
        entries = sum(1 for entry in judged.baseline.entries if judged.baseline.runs[entry.run] is source)
        rows.append(["baseline", f"{many(entries, 'value')} of {source.date}, commit {source.commit}"])
    return table(["", f"{run.suite} on {run.platform}"], rows)


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table with its columns lined up; columns that are empty all the way down are left out."""
    frame = pd.DataFrame(rows, columns=list(headers)).astype(str).replace(r"\|", r"\\|", regex=True)
    frame = frame.loc[:, (frame != "").any()]
    return frame.to_markdown(index=False, tablefmt="github", disable_numparse=True)


def case(verdict: Verdict, with_layer: bool = True) -> str:
    """What was measured, without the fields that have columns of their own."""
    key = verdict.key
    parts = (key.case, key.operation, key.preset, key.shape, key.layer if with_layer else "")
    return " ".join(part for part in parts if part)


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _dtype_rank(dtype: str) -> int:
    return DTYPES.index(dtype) if dtype in DTYPES else len(DTYPES)


_TEMPLATES = Environment(
    loader=FileSystemLoader([Path(__file__).parent / "templates", SUITES]), undefined=StrictUndefined,
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
)  # fmt: skip
_TEMPLATES.globals.update({
    function.__name__: function
    for function in (
        count_table, counts, explained_tables, finding_lines, grade_counts, grade_table, headline, many, notes,
        provenance_table, status_table, table, value_tables, worst_table,
    )
})  # fmt: skip
