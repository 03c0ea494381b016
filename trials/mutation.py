"""Mutants of the sources: cosmic-ray's operators say where something can be changed and how, a seeded sample of it.

Every place in a package is as likely to be drawn as any other, and one of the ways to change it: else a sum, which has
eleven replacements, would count more than a number or a condition. A place's turn comes by a hash of the seed and its
text, so that a larger sample holds the smaller one, and code that changes elsewhere leaves the rest as it was.

Left out is what no test could be asked to see: what Python does not run (annotations, `if TYPE_CHECKING`; strings and
comments are left alone by the tool), what is no Python any more, a bare star among parameters, which the tool takes for
a product, and how a picture looks: what it shows is in the tables as well, and those are tested.
"""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names
from pydantic import BaseModel, ConfigDict, Field

from trials.catalogue import read_tables

PACKAGES = {"impl_flax": 11, "twinvae": 8, "twinvae/bench": 5}  # their shares of a sample
LEFT_OUT = ("twinvae/bench/drawing",)
EQUIVALENTS = Path(__file__).with_name("equivalent.toml")


class Place(NamedTuple):
    """Where something can be changed: its identity is in the text around it, its ways are operators and occurrences."""

    file: str
    line: int
    identity: str
    ways: tuple[tuple[str, int], ...]


class Mutant(BaseModel):
    """One change to one file.

    Attributes:
        before, after: the changed lines, without indents and line ends.
        equivalent: why no test can see it, where it is listed.
        source: the whole file with the change; not kept with results.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    line: int
    operator: str
    occurrence: int
    before: str
    after: str
    equivalent: str = ""
    source: str = Field("", exclude=True, repr=False)

    @property
    def package(self) -> str:
        return package_of(self.file)

    @property
    def name(self) -> str:
        """What a result is known by."""
        return f"{self.file}:{self.line}  {self.before}  ->  {self.after}  ({self.operator} {self.occurrence})"

    @property
    def files(self) -> tuple[str, ...]:
        return (self.file,)


class Equivalent(BaseModel):
    """A mutant that no test can see, known by its text, so that code may move.

    Attributes:
        before, after: the changed lines; blanks and line ends do not count.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    before: str = Field(min_length=1)
    after: str
    reason: str = Field(min_length=1)

    def holds(self, mutant: Mutant) -> bool:
        given, found = (self.before, self.after), (mutant.before, mutant.after)
        return self.file == mutant.file and [*map(_packed, given)] == [*map(_packed, found)]


def sample(root: Path, package: str, size: int, seed: int, listed: Sequence[Equivalent] = ()) -> list[Mutant]:
    """Mutants of one package, the same ones for the same code and seed, those that are listed with the reason."""
    paths = (path.relative_to(root).as_posix() for path in sorted((Path(root) / package).rglob("*.py")))
    files = [file for file in paths if package_of(file) == package and not file.startswith(LEFT_OUT)]
    found = sorted(chain(*(places(root, file) for file in files)), key=lambda place: _rank(seed, place.identity))
    drawn = islice(filter(None, (next(mutants_at(root, place, seed), None) for place in found)), size)
    reasons = ((mutant, next((one.reason for one in listed if one.holds(mutant)), "")) for mutant in drawn)
    return [mutant.model_copy(update={"equivalent": reason}) for mutant, reason in reasons]


def package_of(file: str) -> str:
    """The innermost package that a file is in."""
    return max((name for name in PACKAGES if file.startswith(f"{name}/")), key=len, default=file.partition("/")[0])


def shares(size: int) -> dict[str, int]:
    """What a sample of `size` mutants holds of each package."""
    return {package: round(size * share / sum(PACKAGES.values())) for package, share in PACKAGES.items()}


def equivalents(root: Path, path: Path = EQUIVALENTS) -> list[Equivalent]:
    """The list of mutants that no test can see.

    Raises:
        ValueError: it is not valid, or about a line that is in the sources no more.
    """
    listed = read_tables(path, "mutant", Equivalent)
    there = (one.file for one in listed if (root / one.file).is_file())
    texts = {file: (root / file).read_text(encoding="utf-8") for file in there}
    gone = [one for one in listed if _packed(one.before) not in _packed(texts.get(one.file, ""))]
    if gone:
        raise ValueError("\n".join(f"{path.name}: {one.file} does not hold {one.before!r} any more: take the entry out"
                                   for one in gone))  # fmt: skip
    return listed


@cache
def places(root: Path, file: str) -> list[Place]:
    """Every place in a file that some operator changes."""
    source = (root / file).read_text(encoding="utf-8")
    nodes, lines = list(ast_nodes(get_ast(source))), source.splitlines()
    ways: dict[tuple, list[tuple[str, int]]] = {}
    for name, operator in _operators().items():
        positions = ((node, position) for node in nodes for position in operator.mutation_positions(node))
        for occurrence, (node, position) in enumerate(positions):
            if node.parent is None or node.parent.type != "parameters":
                ways.setdefault(position, []).append((name, occurrence))
    found, seen = [], Counter()
    for (line, column), end in sorted(ways):
        text = f"{file} {lines[line - 1].strip()} {column} {end[1]}"
        seen[text] += 1
        found.append(Place(file, line, f"{text} {seen[text]}", tuple(ways[(line, column), end])))
    return found


def mutants_at(root: Path, place: Place, seed: int = 0) -> Iterator[Mutant]:
    """What can be made of a place, in an order drawn from the seed."""
    source = (root / place.file).read_text(encoding="utf-8")
    for name, occurrence in sorted(place.ways, key=lambda way: _rank(seed, f"{place.identity} {way[0]}")):
        try:
            mutated = mutate_code(source, _operators()[name], occurrence)
        except AttributeError:  # of an exception with a dotted name, which cosmic-ray 8.7.0 cannot replace
            continue
        if what_runs(mutated) not in (None, what_runs(source)):
            before, after = _changed(source, mutated)
            yield Mutant(file=place.file, line=place.line, operator=name.removeprefix("core/"), occurrence=occurrence,
                         before=before, after=after, source=mutated)  # fmt: skip


@cache
def what_runs(source: str) -> str | None:
    """What Python makes of a source, without what it never runs; None where it is no Python.

    The annotations of pydantic's fields are run, and are left out as well: a mutated one cannot be imported.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            compile(source, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for field in {"annotation", "returns"} & set(node._fields):
            setattr(node, field, None)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    return ast.dump(tree)


def _packed(text: str) -> str:
    return "".join(text.split())


@cache
def _operators() -> dict[str, Operator]:
    """All that need no arguments; those that take some draw numbers of their own."""
    kinds = {name: get_operator(name) for name in operator_names()}
    return {name: kind() for name, kind in kinds.items() if not kind.arguments()}


def _changed(before: str, after: str) -> tuple[str, str]:
    """The lines in which two texts differ."""
    old, new = before.splitlines(), after.splitlines()
    start = next((number for number, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), 0)
    old, new = old[start:], new[start:]
    while old and new and old[-1] == new[-1]:
        old, new = old[:-1], new[:-1]
    # The tool puts a blank before a number.
    old, new = (re.sub(r"(?<=[(\[]) ", "", " ".join(" ".join(lines).split())) for lines in (old, new))
    return old, new


def _rank(seed: int, identity: str) -> bytes:
    return hashlib.sha256(f"{seed} {identity}".encode()).digest()
