"""Mutants of the sources: cosmic-ray's operators say where something can be changed and how, a seeded sample of it.

Every place in a package is as likely to be drawn as any other, and then one of the ways to change it: else a sum, which
has eleven replacements, would count more than a number or a condition. A place's turn comes by a hash of the seed and
its text, so that a larger sample holds the smaller one, and code that changes elsewhere leaves the rest as it was.

Left out is what no test could be asked to see: what Python does not run (annotations, `if TYPE_CHECKING`; strings and
comments are left alone by the tool), what is no Python any more, a bare star among parameters, which the tool takes for
a product, and how a picture looks: what it shows is in the tables as well, and those are tested.
"""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
from collections import Counter, deque
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators.operator import Operator
from cosmic_ray.plugins import get_operator, operator_names

PACKAGES = {"impl_flax": 11, "twinvae": 8, "twinvae/bench": 5}  # their shares of a sample
LEFT_OUT = ("twinvae/bench/drawing",)


class Place(NamedTuple):
    """Where something can be changed.

    Args:
        file: relative to the checkout.
        line: its number, from 1 on.
        identity: its file, the text of its line, its column, and which of several such.
        ways: operator, and which of its occurrences in the file.
    """

    file: str
    line: int
    identity: str
    ways: tuple[tuple[str, int], ...]


class Mutant(NamedTuple):
    """One change to one file.

    Args:
        before, after: the changed lines, without indents and line ends.
        source: the whole file with the change.
    """

    file: str
    line: int
    operator: str
    occurrence: int
    before: str
    after: str
    source: str

    @property
    def package(self) -> str:
        return package_of(self.file)

    @property
    def key(self) -> tuple[str | int, ...]:
        """By which a result is known to be of this mutant."""
        return self[:-1]


def package_of(file: str) -> str:
    """The innermost package that a file is in."""
    return max((name for name in PACKAGES if file.startswith(f"{name}/")), key=len, default=file.partition("/")[0])


def sample(root: Path, package: str, size: int, seed: int) -> list[Mutant]:
    """Mutants of one package, the same ones for the same code and seed."""
    paths = sorted(path for path in (Path(root) / package).rglob("*.py"))
    files = [path.relative_to(root).as_posix() for path in paths]
    files = [file for file in files if package_of(file) == package and not file.startswith(LEFT_OUT)]
    found = [place for file in files for place in places(root, file)]
    found.sort(key=lambda place: _rank(seed, place.identity))
    return list(islice(_in_rounds([mutants_at(root, place, seed) for place in found]), size))


def shares(size: int) -> dict[str, int]:
    """What a sample of `size` mutants holds of each package."""
    return {package: round(size * share / sum(PACKAGES.values())) for package, share in PACKAGES.items()}


@cache
def places(root: Path, file: str) -> list[Place]:
    """Every place in a file that some operator changes."""
    source = _source(root, file)
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
    source = _source(root, place.file)
    for name, occurrence in sorted(place.ways, key=lambda way: _rank(seed, f"{place.identity} {way[0]}")):
        mutated = _mutated(source, name, occurrence)
        if what_runs(mutated) not in (None, _usual(source)):
            yield Mutant(place.file, place.line, name.removeprefix("core/"), occurrence, *_changed(source, mutated),
                         mutated)  # fmt: skip


def _mutated(source: str, operator: str, occurrence: int) -> str:
    try:
        return mutate_code(source, _operators()[operator], occurrence)
    except AttributeError:  # of an exception with a dotted name, which cosmic-ray 8.7.0 cannot replace
        return source


def what_runs(source: str) -> str | None:
    """What Python makes of a source, without what it never runs; None where it is no Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            compile(source, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return None
    return ast.dump(_OnlyWhatRuns().visit(ast.parse(source)))


class _OnlyWhatRuns(ast.NodeTransformer):
    """The annotations of pydantic's fields are run, and are left out as well: a mutated one cannot be imported."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        for field in ("annotation", "returns"):
            if getattr(node, field, None) is not None:
                setattr(node, field, ast.Constant(None))
        return super().generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = [ast.Pass()]
        return self.generic_visit(node)


def in_one_line(text: str) -> str:
    return re.sub(r"(?<=[(\[]) ", "", " ".join(text.split()))


@cache
def _operators() -> dict[str, Operator]:
    """All that need no arguments; those that take some draw numbers of their own."""
    kinds = {name: get_operator(name) for name in operator_names()}
    return {name: kind() for name, kind in kinds.items() if not kind.arguments()}


@cache
def _usual(source: str) -> str | None:
    return what_runs(source)


@cache
def _source(root: Path, file: str) -> str:
    return (Path(root) / file).read_text(encoding="utf-8")


def _changed(before: str, after: str) -> tuple[str, str]:
    """The lines in which two texts differ."""
    old, new = before.splitlines(), after.splitlines()
    start = next((number for number, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), 0)
    old, new = old[start:], new[start:]
    while old and new and old[-1] == new[-1]:
        old, new = old[:-1], new[:-1]
    return in_one_line("\n".join(old)), in_one_line("\n".join(new))


def _rank(seed: int, identity: str) -> bytes:
    return hashlib.sha256(f"{seed} {identity}".encode()).digest()


def _in_rounds(turns: list[Iterator[Mutant]]) -> Iterator[Mutant]:
    """The first of each, then the second of each, and so on."""
    waiting = deque(turns)
    while waiting:
        turn = waiting.popleft()
        for mutant in turn:
            yield mutant
            waiting.append(turn)
            break
