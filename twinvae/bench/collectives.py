"""What a compiled program sends between devices, by kind: how often, and how many bytes."""

from __future__ import annotations

import re
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8}
_INSTRUCTION = re.compile(rf"= (?P<type>.*?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")


class Sent(NamedTuple):
    count: int
    bytes: int


def collectives(text: str) -> dict[str, Sent]:
    """The collectives of a compiled program's text; a loop's body counts once.

    Bytes are those of results: what each device receives of a permutation.
    """
    found: dict[str, Sent] = {}
    for line in text.splitlines():
        if match := _INSTRUCTION.search(line):
            arrays = [_size(*array) for array in _ARRAY.findall(match["type"])]
            if match["start"]:  # operands, then results, then what only the device uses
                arrays = arrays[1:2] if match["kind"] == "collective-permute" else arrays[len(arrays) // 2 :]
            count, sent = found.get(match["kind"], Sent(0, 0))
            found[match["kind"]] = Sent(count + 1, sent + sum(arrays))
    return found


def _size(kind: str, shape: str) -> int:
    count = 1
    for side in filter(None, shape.split(",")):
        count *= int(side)
    return count * BYTES.get(kind, 4)
