"""Publishing: pages of complete runs of one commit go to `reports/<platform>/`, where git keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from twinvae.bench.acceptance import asked, unfit
from twinvae.bench.pages import Judged, headline
from twinvae.bench.report import write_pages


def publish(runs: Mapping[str, Sequence[Judged]], to: Path, yes: bool = False) -> int:
    """Write pages and figures of these runs, by platform; those of other suites that are there stay.

    Args:
        yes: do not ask.
    Returns:
        An exit status: 0, or 2 where nothing could be written.
    """
    for platform, suites in runs.items():
        lines = [f"  {judged.suite}, commit {judged.data.run.commit}: {headline(judged)}" for judged in suites]
        print(f"\n{to / platform}:", *lines, sep="\n")
    if reasons := against([judged for suites in runs.values() for judged in suites]):
        print("Not published:", *reasons, sep="\n  ")
        return 2
    if (agreed := yes or asked("Publish these pages?")) is None:
        return 2
    if agreed:
        for platform, suites in runs.items():
            print(f"Wrote {write_pages(suites, suites, to / platform)}")
    return 0


def against(suites: Sequence[Judged]) -> list[str]:
    """What speaks against publishing these runs together."""
    reasons = [f"{judged.suite}: {reason}" for judged in suites for reason in unfit(judged.data)]
    commits = {judged.data.run.commit: judged.suite for judged in suites}
    if len(commits) > 1:
        found = ", ".join(f"{commit} ({suite})" for commit, suite in commits.items())
        reasons.append(
            f"They are of several commits, {found}: run them again on one, or name the suites that are of one."
        )
    return reasons
