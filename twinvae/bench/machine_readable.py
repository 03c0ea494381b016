"""The verdict for programs: JSON of each suite, and a badge as shields.io's endpoint takes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twinvae.bench.files import write_whole
from twinvae.bench.findings import many
from twinvae.bench.pages import Judged, headline
from twinvae.bench.verdicts import counts

VERDICT, BADGE = "verdict.json", "badge.json"


def verdict(suites: Sequence[Judged]) -> dict[str, Any]:
    """What the runs of these suites come to, by suite."""
    return {
        "failed": any(judged.failed for judged in suites),
        "suites": {judged.suite: _of_suite(judged) for judged in suites},
    }


def _of_suite(judged: Judged) -> dict[str, Any]:
    data = judged.data
    return {
        "failed": judged.failed,
        "complete": data.complete,
        "headline": headline(judged),
        "commit": data.run.commit,
        "sources": data.run.sources,
        "values": counts(judged.verdicts),
        "failures": [{"test": one.test, "message": one.message, "rerun": one.rerun} for one in data.failures],
        "ports": list(data.run.ports),
        "not judged": list(data.unjudged),
    }


def badge(suites: Sequence[Judged]) -> dict[str, Any]:
    """What https://shields.io/badges/endpoint-badge shows."""
    failing = sum(verdict.failing for judged in suites for verdict in judged.verdicts)
    values = sum(len(judged.verdicts) for judged in suites)
    tests = sum(len(judged.data.failures) for judged in suites)
    whole = all(judged.data.complete for judged in suites)
    if failing or tests:
        failed = f"{failing} of {values} values fail" if failing else many(tests, "test fails", "tests fail")
        message, colour = failed, "red"
    elif not values:
        message, colour = "nothing measured", "lightgrey"
    else:
        known = sum(verdict.status == "known" for judged in suites for verdict in judged.verdicts)
        message = f"{values - known} values agree" + f", {known} known to fail" * bool(known)
        colour = "brightgreen" if whole and not known else "yellowgreen"
    message += "" if whole else ", in part"
    return {"schemaVersion": 1, "label": "diffusers parity", "message": message, "color": colour}


def write_machine_readable(suites: Sequence[Judged], folder: Path) -> None:
    """Write both beside the pages.

    Raises:
        OSError: the folder cannot be written.
    """
    for name, content in ((VERDICT, verdict(suites)), (BADGE, badge(suites))):
        write_whole(folder / name, json.dumps(content, indent=2) + "\n")
