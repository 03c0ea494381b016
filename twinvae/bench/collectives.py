"""What a compiled program sends between devices, by kind: how often, and how many bytes."""

from __future__ import annotations

from typing import NamedTuple

from twinvae.bench.aot.hlo import Compiled

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
BEGINS = "-start"  # of a collective that computing goes on beside


class Sent(NamedTuple):
    count: int
    bytes: int


def collectives(text: str, inside: int = 0) -> dict[str, Sent]:
    """The collectives of a compiled program's text; a loop's body counts once.

    Bytes are those of results: what each device receives of a permutation.

    Args:
        inside: count only what is inside of so many loops.
    Raises:
        ValueError: the text holds no program.
    """
    found: dict[str, Sent] = {}
    program = Compiled(text)
    counted = [name for name in program.computations if not inside or program.loops_around(name) >= inside]
    for one in (one for name in counted for one in program.computations[name].values()):
        kind, results = one.opcode.removesuffix(BEGINS), one.results
        if kind not in KINDS:
            continue
        if one.opcode.endswith(BEGINS):  # operands, then results, then what only the device uses
            results = results[1:2] if kind == "collective-permute" else results[len(results) // 2 :]
        count, sent = found.get(kind, Sent(0, 0))
        found[kind] = Sent(count + 1, sent + sum(value.bytes for value in results))
    return found
