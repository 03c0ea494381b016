"""What the page of faults says of mutants: how many of each package were killed, and which were not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from trials.results import MutantTrial
from twinvae.bench.pages import table

COLUMNS = ("tried", "killed", "of these hung", "equivalent", "survived", "killed, of the others")


class Count(NamedTuple):
    """Of one package; those that hung are among the killed."""

    tried: int
    killed: int
    hung: int
    equivalent: int
    survived: int

    @property
    def share(self) -> str:
        """The killed of those that some test should see."""
        visible = self.killed + self.survived
        return f"{100 * self.killed / visible:.1f} %" if visible else ""


def count(mutants: Sequence[MutantTrial], package: str) -> Count:
    statuses = [mutant.status for mutant in mutants if mutant.package == package]
    killed, hung, equivalent, survived = map(statuses.count, ("killed", "hung", "equivalent", "survived"))
    return Count(len(statuses), killed + hung, hung, equivalent, survived)


def mutant_packages(mutants: Sequence[MutantTrial]) -> list[str]:
    return list(dict.fromkeys(mutant.package for mutant in mutants))


def mutant_verdict(mutants: Sequence[MutantTrial]) -> str:
    """What it comes to, in a sentence; nothing where none was tried."""
    parts = []
    for package in mutant_packages(mutants):
        found = count(mutants, package)
        parts.append(f"{package} {found.killed} of {found.killed + found.survived}")
    return f"Mutants killed: {', '.join(parts)}." if parts else ""


def mutant_table(mutants: Sequence[MutantTrial]) -> str:
    """A row per package."""
    counts = [(package, count(mutants, package)) for package in mutant_packages(mutants)]
    rows = [[package, *found, found.share] for package, found in counts]
    return table(["package", *COLUMNS], rows)


def of_status(mutants: Sequence[MutantTrial], status: str) -> list[MutantTrial]:
    found = [mutant for mutant in mutants if mutant.status == status]
    return sorted(found, key=lambda mutant: (mutant.file, mutant.line, mutant.after))


def survivor_table(mutants: Sequence[MutantTrial]) -> str:
    rows = [[*_change(mutant), mutant.what] for mutant in of_status(mutants, "survived")]
    return table(["place", "line", "as a mutant", "what was run"], rows)


def equivalent_mutant_table(mutants: Sequence[MutantTrial]) -> str:
    rows = [[*_change(mutant), mutant.reason] for mutant in of_status(mutants, "equivalent")]
    return table(["place", "line", "as a mutant", "why no test can see it"], rows)


def _change(mutant: MutantTrial) -> tuple[str, str, str]:
    return f"{mutant.file}:{mutant.line}", f"`{mutant.before}`", f"`{mutant.after}`" if mutant.after else "(nothing)"
