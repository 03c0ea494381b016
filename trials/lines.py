"""The lines of a source of which one has to run for a change to make a difference: pure functions of two texts."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


def changed_lines(before: str, after: str) -> set[int] | None:
    """Their numbers, from 1 on; None where importing the source makes a difference already."""
    statements = {line: (node, inside) for node, inside in _statements(ast.parse(before)) for line in _own_lines(node)}
    found: set[int] = set()
    for line in _touched(before.splitlines(), after.splitlines()):
        if line in statements:  # neither blank nor a comment
            node, in_a_function = statements[line]
            if not in_a_function:
                return None
            found |= _own_lines(node)
    return found


def _statements(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Every statement, and whether it is in a function, so that importing does not run it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child, inside
        yield from _statements(child, inside or isinstance(child, FUNCTIONS))


def _own_lines(node: ast.stmt) -> set[int]:
    """Those of a statement, less those of the statements in it."""
    inner = {line for child, _ in _statements(node) for line in _lines(child)}
    return {*_lines(node)} - inner


def _lines(node: ast.stmt) -> range:
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", ()))])
    return range(first, node.end_lineno + 1)


def _touched(old: Sequence[str], new: Sequence[str]) -> set[int]:
    touched: set[int] = set()
    for kind, first, last, new_first, new_last in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        touched |= set(range(first + 1, last + 1))
        written = _indents(new[new_first:new_last])
        if written and min(written) < min(_indents(old[first:last]), default=1000):  # may run where these do not
            touched |= _around(old, first, last, min(written))
    return touched


def _around(lines: Sequence[str], first: int, last: int, indent: int) -> set[int]:
    """The numbers of lines beside a place, one of which runs whenever it does: one of its own block, else both."""
    above = next((index for index in reversed(range(first)) if lines[index].strip()), None)
    below = next((index for index in range(last, len(lines)) if lines[index].strip()), None)
    found = [index for index in (above, below) if index is not None]
    own = [index for index in found if _indents([lines[index]]) == [indent]]
    return {index + 1 for index in own[:1] or found}


def _indents(lines: Sequence[str]) -> list[int]:
    return [len(line) - len(line.lstrip()) for line in lines if line.strip()]
