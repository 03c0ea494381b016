"""A compiled program, read from its text: its convolutions, what lies between its kernels, and what that costs.

XLA's own counts of operations and bytes are, of a GPU, those of a device that is there, and of a TPU those of a loop
that runs once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from math import prod
from typing import NamedTuple

BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
CONVOLUTIONS, IN_FLOAT32, CHANNEL_FIRST = "convolutions", "convolutions in float32", "channel-first convolutions"
TRANSPOSES, COPIES = "transposes of activations", "copies of activations"
FLOAT32, FUSIONS, OTHERS = "float32 activations", "fusions", "other library calls"
COUNTS = (CONVOLUTIONS, IN_FLOAT32, CHANNEL_FIRST, TRANSPOSES, COPIES, FLOAT32, FUSIONS, OTHERS)
ALLOCATION = "AllocateBuffer"
NO_KERNEL = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call")
SLICES = ("slice", "dynamic-slice")
STARTS, ENDS = "-start", "-done"  # of what goes on beside other operations
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(
    r"^\s+(ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>\((?:[^()]|\([^()]*\))*\)|\S+) (?P<opcode>[\w\-]+)"
    r"\((?P<operands>[^)]*)\)(?P<rest>.*)$"
)
_VALUE = re.compile(r"(\w+)\[([\d,]*)\](\{[^{}]*S\(1\)[^{}]*\})?")
_NAME = re.compile(r"%([\w.\-]+)")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")
_CALLED = re.compile(r"(?:calls|body|to_apply|true_computation|false_computation)=%([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CONDITION = re.compile(r"condition=%([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_INDEX = re.compile(r"index=(\d+)")
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")


class Value(NamedTuple):
    """An array.

    Args:
        near: a TPU keeps it in its vector memory.
    """

    dtype: str
    shape: tuple[int, ...]
    near: bool = False

    @property
    def bytes(self) -> int:
        return prod(self.shape) * BYTES.get(self.dtype, 1)

    @property
    def moved(self) -> int:
        """Bytes of a device's memory that reading or writing it moves."""
        return 0 if self.near else self.bytes

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


class Operation(NamedTuple):
    """A line of a program.

    Args:
        results: one, or those of a tuple.
        operands: their names.
        rest: attributes.
    """

    name: str
    root: bool
    opcode: str
    results: tuple[Value, ...]
    operands: tuple[str, ...]
    argument: str
    rest: str

    @property
    def target(self) -> str:
        """What is called of a library; empty of all other operations."""
        found = _TARGET.search(self.rest) if self.opcode == "custom-call" else None
        return found[1] if found else ""

    @property
    def called(self) -> list[str]:
        """Computations that it runs; a loop's condition is none."""
        branches = _BRANCHES.search(self.rest)
        return _CALLED.findall(self.rest) + (_NAME.findall(branches[1]) if branches else [])

    @property
    def is_convolution(self) -> bool:
        return self.target.startswith("__cudnn$conv") or self.opcode == "convolution"


class Computation(dict[str, Operation]):
    """Operations by name, in order."""

    @cached_property
    def users(self) -> dict[str, list[Operation]]:
        found: dict[str, list[Operation]] = {name: [] for name in self}
        for operation in self.values():
            for name in dict.fromkeys(operation.operands):
                found[name].append(operation)
        return found


class Compiled:
    """An optimised program.

    Args:
        text: as `jax.stages.Compiled.as_text` gives it.
    Raises:
        ValueError: it holds no program.
    """

    def __init__(self, text: str) -> None:
        self.computations: dict[str, Computation] = {}
        self._of_weights: dict[str, set[str]] = {}
        self.entry, current = "", Computation()
        for line in text.splitlines():
            if head := _COMPUTATION.match(line):
                current = self.computations[head[2]] = Computation()
                self.entry = head[2] if head[1] else self.entry
            elif found := _OPERATION.match(line):
                current[found["name"]] = Operation(
                    found["name"], bool(found[1]), found["opcode"],
                    tuple(Value(dtype, tuple(map(int, filter(None, sides.split(",")))), bool(near))
                          for dtype, sides, near in _VALUE.findall(found["type"])),
                    tuple(_NAME.findall(found["operands"])), found["operands"], found["rest"],
                )  # fmt: skip
        if not self.entry:
            raise ValueError(f"no program: expected a line that begins with ENTRY, found {text[:80]!r}")

    @cached_property
    def runs(self) -> Mapping[str, int]:
        """The computations whose operations are kernels of their own, and how often each runs; a branch runs once."""
        found: dict[str, int] = {}
        left = [(self.entry, 1)]
        while left:
            name, times = left.pop()
            found[name] = found.get(name, 0) + times
            for operation in self.computations[name].values():
                if operation.opcode in ("while", "conditional", "call"):
                    trips = self._trips(operation) if operation.opcode == "while" else 1
                    left.extend((called, times * trips) for called in operation.called)
        return found

    def _trips(self, loop: Operation) -> int:
        """How often a loop runs: as it says, else as its counter, from 0 on, is below a number; else once."""
        if said := _TRIPS.search(loop.rest):
            return int(said[1])
        named = _CONDITION.search(loop.rest)
        condition = self.computations.get(named[1], {}) if named else {}
        root = next((one for one in condition.values() if one.root), None)
        if root is None or root.opcode != "compare" or "direction=LT" not in root.rest:
            return 1
        bound = condition[root.operands[1]]
        return int(bound.argument) if bound.opcode == "constant" else 1

    def loops_around(self, computation: str) -> int:
        """How many loops a computation is inside of."""
        around = [(name, one) for name, inside in self.computations.items() for one in inside.values()
                  if computation in one.called]  # fmt: skip
        return max((self.loops_around(name) + (one.opcode == "while") for name, one in around), default=0)

    def of_weights(self, computation: str) -> set[str]:
        """What convolutions take beside frames, kernels and biases, and what only that is made of; by name."""
        if computation not in self._of_weights:
            inside, found = self.computations[computation], set()
            left = [name for one in inside.values() if one.is_convolution for name in one.operands[1:3]]
            for one in inside.values():
                if one.opcode == "while" and (carried := inside[one.operands[0]]).opcode == "tuple":
                    left.extend(carried.operands[place] for place in self._carried_weights(one.called[0]))
            while left:
                name = left.pop()
                if name not in found:
                    found.add(name)
                    left.extend(inside[name].operands if inside[name].opcode != "get-tuple-element" else ())
            self._of_weights[computation] = found
        return self._of_weights[computation]

    def _carried_weights(self, body: str) -> list[int]:
        """The places of a loop's tuple that hold weights."""
        inside = self.computations[body]
        taken = (inside[name] for name in self.of_weights(body) if inside[name].opcode == "get-tuple-element")
        carried = (one.rest for one in taken if inside[one.operands[0]].opcode == "parameter")
        return [int(place) for rest in carried for place in _INDEX.findall(rest)[:1]]

    def kernels(self) -> Iterator[tuple[str, Operation, int]]:
        """Every operation that is a kernel of its own, the computation that it stands in, and how often it runs."""
        for where, times in self.runs.items():
            every = self.computations[where].values()
            found = (one for one in every if one.opcode not in NO_KERNEL and one.target != ALLOCATION
                     and not one.opcode.endswith(ENDS))  # fmt: skip
            yield from ((where, one, times) for one in found)

    def counts(self) -> dict[str, int]:
        """What there is of each thing that costs time or memory, each counted once however often it runs.

        An activation is what has at least as many numbers as the smallest result of a convolution, and is not made of
        weights alone. One in float32 has three axes at least: sums of a norm's parts, which may be as many, have two.
        """
        found: dict[str, int] = dict.fromkeys(COUNTS, 0)
        for _, one, _ in self.kernels():
            found[FUSIONS] += one.opcode == "fusion"
            found[OTHERS] += one.opcode == "custom-call" and not one.is_convolution
            if one.is_convolution:
                found[CONVOLUTIONS] += 1
                found[IN_FLOAT32] += one.results[0].dtype == "f32"
                found[CHANNEL_FIRST] += not labels(one)[0].endswith("f")
        least = min((prod(one.results[0].shape) for _, one, _ in self.kernels() if one.is_convolution), default=1)
        for where, one, _ in self.kernels():
            if one.name in self.of_weights(where):
                continue
            inside = self.computations[one.called[0]].values() if one.opcode == "fusion" else (one,)
            large = [part.opcode for part in inside if part.results and prod(part.results[0].shape) >= least]
            found[TRANSPOSES] += large.count("transpose")
            found[COPIES] += large.count("copy")
            found[FLOAT32] += sum(
                value.dtype == "f32" and len(value.shape) > 2 and prod(value.shape) >= least for value in one.results
            )
        return found

    def flops(self) -> int:
        """Of convolutions, taps on padding included, and of matrix products."""
        return sum(times * self._flops(self.computations[name], one) for name, one, times in self.kernels())

    def _flops(self, where: Computation, one: Operation, outside: Computation | None = None) -> int:
        """Of an operation, or of all that is fused in it."""
        if one.opcode == "fusion":
            inside = self.computations[one.called[0]]
            return sum(self._flops(inside, part, where) for part in inside.values())
        if one.is_convolution:
            kernel = where[one.operands[1]].results[0].shape
            outputs = kernel[labels(one)[1].index("o")]
            return 2 * prod(one.results[0].shape) * prod(kernel) // outputs
        if one.opcode == "dot":
            left = (where if one.operands[0] in where else outside or where)[one.operands[0]].results[0].shape
            axes = _CONTRACTED.search(one.rest)
            summed = [left[int(axis)] for axis in filter(None, (axes[1] if axes else "").split(","))]
            return 2 * prod(one.results[0].shape) * prod(summed)
        return 0

    def bytes_accessed(self) -> int:
        """What kernels read and write, as if none of it were found in a cache; of what is sliced, the slice."""
        found = ((self.computations[name], one, times) for name, one, times in self.kernels())
        return sum(times * (self._read(where, one) + self._written(where, one)) for where, one, times in found)

    def _read(self, where: Computation, one: Operation) -> int:
        sizes = [sum(value.moved for value in where[name].results) for name in one.operands]
        if one.opcode in SLICES:
            return sum(value.bytes for value in one.results) if sizes[0] else 0
        if one.opcode == "dynamic-update-slice":
            return sizes[1]
        if one.opcode != "fusion":
            return sum(sizes)
        return sum(self._read_inside(one, place, size) for place, size in enumerate(sizes))

    def _read_inside(self, fusion: Operation, place: int, size: int) -> int:
        """What a fusion reads of one of its operands."""
        inside = self.computations[fusion.called[0]]
        parameter = next(one for one in inside.values() if one.opcode == "parameter" and int(one.argument) == place)
        return self._read_of(inside, parameter, size) if size else 0

    def _read_of(self, inside: Computation, part: Operation, size: int) -> int:
        """What is read of a part of a fusion."""
        total = 0
        for user in inside.users[part.name]:
            if user.opcode in SLICES:
                total += sum(value.bytes for value in user.results)
            elif user.opcode == "bitcast" and not user.root:
                total += self._read_of(inside, user, size)
            elif user.opcode == "fusion":
                places = (place for place, name in enumerate(user.operands) if name == part.name)
                total += sum(self._read_inside(user, place, size) for place in places)
            elif user.opcode != "dynamic-update-slice" or user.operands[0] != part.name:
                return size
        return min(total, size)

    def _written(self, where: Computation, one: Operation) -> int:
        if one.opcode.endswith(STARTS):  # where it goes, then where it comes from
            return one.results[0].moved
        if one.opcode != "fusion":
            return _written_of(where, one)
        inside = self.computations[one.called[0]]
        root = next(part for part in inside.values() if part.root)
        parts = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
        return sum(_written_of(inside, part) for part in parts)


def labels(convolution: Operation) -> tuple[str, str, str]:
    """The axes of frames, kernel and result, as letters: "b012f", "o012i", "b012f" is channel-last."""
    found = _LABELS.search(convolution.rest)
    if found is None:
        raise ValueError(f"a convolution without dim_labels: {convolution.name}{convolution.rest[:200]}")
    return found[1], found[2], found[3]


def _written_of(inside: Computation, part: Operation) -> int:
    """What is written of a result: an update in place writes the update alone."""
    while part.opcode == "bitcast":
        part = inside[part.operands[0]]
    if part.opcode == "dynamic-update-slice":
        part = inside[part.operands[1]]
    return sum(value.moved for value in part.results)
