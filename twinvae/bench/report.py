"""Reports: records and baselines become pages. `write_report` writes those of a platform."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel
from rich.table import Table

from twinvae.bench.additions import draw
from twinvae.bench.baselines import baseline_path, read_baseline
from twinvae.bench.files import write_whole
from twinvae.bench.findings import KINDS, Finding, badness, many
from twinvae.bench.machine_readable import write_machine_readable
from twinvae.bench.pages import Elsewhere, Judged, by_backend_and_dtype, case, headline, index_page, suite_page
from twinvae.bench.records import Run, read_run
from twinvae.bench.verdicts import STATUSES, counts, judge_run, number

SHOWN = 16  # findings that the terminal lists


class Summary(NamedTuple):
    """What a platform's report comes to.

    Attributes:
        failed: something is wrong, got worse or is missing, or a test failed.
        table: for a rich console.
        lines: the verdict of each suite in one sentence, and its findings.
        index: the page to read first.
    """

    failed: bool
    table: Table
    lines: tuple[str, ...]
    index: Path


def judge_suites(
    report_dir: Path, baseline_dir: Path, platform: str, chosen: Collection[str] | None = None
) -> list[Judged]:
    """Read and judge the run of every suite that has one.

    Args:
        chosen: suites that have to be readable; default: all. Of the others, one that is not is left out.
    Raises:
        FileNotFoundError: no suite was run.
        ValueError: a run file or a baseline is not valid.
    """
    folder = Path(report_dir) / platform / "records"
    suites = []
    for path in sorted(folder.glob("*.jsonl")):
        try:
            data = read_run(path)
        except ValueError:
            if chosen is None or path.stem in chosen:
                raise
            continue  # a run of an earlier version, say: it must not cost the page of this one
        baseline = read_baseline(baseline_path(baseline_dir, platform, data.run.suite))
        suites.append(Judged(data, baseline, judge_run(data, baseline), diagnosed_in(folder, data.run)))
    if not suites:
        raise FileNotFoundError(f"no records in {folder}: run a suite first, such as `nox -s parity`")
    return suites


def write_report(report_dir: Path, baseline_dir: Path, platform: str, chosen: Collection[str] | None = None) -> Summary:
    """Write a page for every suite that has a run, with its figures, the platform's index, and both as JSON.

    Args:
        chosen: suites to write pages of, and to say whether they fail; default: all. The index holds all.
    Raises:
        FileNotFoundError: no suite was run.
        ValueError: a run file or a baseline is not valid; nothing is written then.
        OSError: the report folder cannot be written.
    """
    suites = judge_suites(report_dir, baseline_dir, platform, chosen)
    ours = [judged for judged in suites if chosen is None or judged.suite in chosen]
    index = write_pages(ours, suites, Path(report_dir) / platform)
    write_machine_readable(ours, index.parent)
    lines = [f"{judged.suite}: {headline(judged)}" for judged in ours]
    lines += terminal_lines([one.finding for judged in ours for one in judged.explained])
    return Summary(any(judged.failed for judged in ours), _table(ours), tuple(lines), index)


def terminal_lines(findings: Sequence[Finding]) -> list[str]:
    """What the terminal says of all suites' findings: each cause once, the worst first, with all that it explains."""
    causes: dict[tuple[str, str, str], Finding] = {}
    for one in findings:
        key = one.kind, one.cause, one.headline
        explains = one.explains + (causes[key].explains if key in causes else 0)
        causes[key] = causes.get(key, one).model_copy(update={"explains": explains})
    ranked = sorted(causes.values(), key=lambda one: KINDS.index(one.kind))
    lines = []
    for index, one in enumerate(ranked[:SHOWN], start=1):
        explains = f" ({many(one.explains, 'value or test', 'values and tests')})" if one.explains else ""
        lines += [f"  {index}. {one.headline}{explains}", *(f"     {line}" for line in one.evidence[:2])]
        lines += [f"     $ {one.command}"] if one.command else []
    if (more := len(ranked) - SHOWN) > 0:
        lines.append(f"  and {many(more, 'finding')} more on the pages")
    return lines


def write_diagnosis(folder: Path, backend: str, findings: Sequence[Finding], date: str) -> None:
    """Keep what experiments with a backend found beside the records of a platform, for the pages of its runs."""
    name = re.sub(r"[^\w.-]+", "_", backend)
    kept = Diagnosed(backend=backend, date=date, findings=tuple(findings))
    write_whole(Path(folder) / f"diagnosis-{name}.json", kept.model_dump_json(indent=1) + "\n")


def diagnosed_in(folder: Path, run: Run) -> tuple[Finding, ...]:
    """What was found of a run's backends after it began; of an earlier diagnosis nothing is said."""
    kept = [Diagnosed.model_validate_json(path.read_text("utf-8")) for path in sorted(folder.glob("diagnosis-*.json"))]
    ours = [one for one in kept if one.backend in run.selection.backends and one.date >= run.date]
    return tuple(finding for one in ours for finding in one.findings)


class Diagnosed(BaseModel):
    """A backend's findings, and when they were made."""

    backend: str
    date: str
    findings: tuple[Finding, ...]


def write_pages(ours: Sequence[Judged], listed: Sequence[Judged], folder: Path) -> Path:
    """Write pages and figures into a platform's folder, and its index of all that are listed; return the index.

    Raises:
        OSError: the folder cannot be written.
    """
    for judged in ours:
        pictures = draw(judged.data, judged.verdicts)
        for picture in pictures:
            write_whole(folder / "figures" / picture.file, picture.content)
        drawn = {picture.file for picture in pictures}
        for stale in (folder / "figures").glob(f"{judged.suite}-*"):
            if stale.name not in drawn:
                stale.unlink()
        write_whole(folder / f"{judged.suite}.md", suite_page(judged, pictures))
    found = {j.suite: [e.finding.model_dump(mode="json") for e in j.explained] for j in listed}
    write_whole(folder / "findings.json", json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    names = {judged.suite for judged in listed} | {"index"}
    others = {page.stem: Elsewhere.read(page) for page in sorted(folder.glob("*.md")) if page.stem not in names}
    write_whole(folder / "index.md", index_page(folder.name, listed, others))
    return folder / "index.md"


def _table(suites: list[Judged]) -> Table:
    """Counts per suite, backend and dtype, and what is closest to its bar or farthest past it."""
    found = {status for judged in suites for status in counts(judged.verdicts)}
    shown = [status for status in STATUSES if status in found]
    table = Table(title_justify="left")
    for heading in ("suite", "backend", "dtype"):
        table.add_column(heading)
    for status in shown:
        table.add_column(status, justify="right")
    table.add_column("closest to its bar, or farthest past it")
    for judged in suites:
        for (backend, dtype), verdicts in by_backend_and_dtype(judged.verdicts).items():
            tally: dict[Any, int] = counts(verdicts)
            failing = any(verdict.failing for verdict in verdicts)
            errors = [verdict for verdict in verdicts if verdict.failing or verdict.record.better == "lower"]
            worst = min(errors or verdicts, key=badness)
            words = f"{case(worst)} {worst.key.metric} {number(worst.value)}"
            limit = worst.record.limit if worst.record else None
            words += f", limit {number(limit)}" if limit is not None else f", {worst.reason}" if worst.failing else ""
            cells = (judged.suite, backend, dtype, *(str(tally.get(status, "")) for status in shown), words)
            table.add_row(*cells, style="red" if failing else None)
        table.add_section()
    return table
