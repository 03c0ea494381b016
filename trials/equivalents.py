"""Mutants that no test can see, `equivalent.toml`: each with the reason why it computes what the code computes."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trials.mutation import Mutant, in_one_line, mutants_at, places
from trials.results import MutantTrial
from twinvae.bench.jsonl import describe

LIST = "trials/equivalent.toml"  # in the checkout


class Equivalent(BaseModel):
    """Known by its text, so that code may move.

    Attributes:
        file: relative to the checkout.
        before, after: the changed lines; blanks and line ends do not count.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    before: str = Field(min_length=1)
    after: str
    reason: str = Field(min_length=1)

    def holds(self, mutant: Mutant | MutantTrial) -> bool:
        given, found = (self.before, self.after), (mutant.before, mutant.after)
        return self.file == mutant.file and [*map(_packed, given)] == [*map(_packed, found)]


def _packed(text: str) -> str:
    return "".join(text.split())


def read_equivalents(path: Path) -> tuple[Equivalent, ...]:
    """Every entry.

    Raises:
        ValueError: the file is no TOML, or an entry is not valid; the message says which.
    """
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8")).get("mutant", [])
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    entries = []
    for number, table in enumerate(tables, 1):
        try:
            entries.append(Equivalent(**table))
        except ValidationError as error:
            raise ValueError(f"{path}, mutant {number} ({table.get('before', 'no line')}): {describe(error)}") from None
    return tuple(entries)


def reason(mutant: Mutant | MutantTrial, entries: Sequence[Equivalent]) -> str:
    """Why no test can see it; nothing for all that some test should."""
    return next((entry.reason for entry in entries if entry.holds(mutant)), "")


def stale(entries: Sequence[Equivalent], root: Path) -> list[Equivalent]:
    """Entries that no possible mutant fits any more."""
    return [entry for entry in entries if not any(entry.holds(mutant) for mutant in _near(entry, Path(root)))]


def _near(entry: Equivalent, root: Path) -> list[Mutant]:
    """The mutants of the lines that an entry may be about."""
    if not (root / entry.file).is_file():
        return []
    lines = (root / entry.file).read_text(encoding="utf-8").splitlines()
    wanted = in_one_line(entry.before)
    found = [place for place in places(root, entry.file) if wanted.startswith(in_one_line(lines[place.line - 1]))]
    return [mutant for place in found for mutant in mutants_at(root, place)]
