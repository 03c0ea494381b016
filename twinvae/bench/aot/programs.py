"""Compiled programs, remembered: what the compiler said of each, by a fingerprint of everything that it depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Literal, NamedTuple

import jax
from pydantic import BaseModel, ConfigDict, Field

from twinvae.bench.aot.tpu_compiler import Outcome, compiled
from twinvae.bench.jsonl import JsonLines

How = Literal["compiled", "recalled", "needs compiling"]
UNKNOWN_SECONDS = 240.0  # what a large program takes on 2 cores, where nothing better is known


class Program(BaseModel):
    """What the compiler said of one program.

    Attributes:
        name: what the program is, in words; the store keeps the last one of each name.
        fingerprint: of the program's text, the compiler and what it is compiled for.
        compiler: its version.
        peak_bytes: of a program that does not fit, what it needs by the compiler's word; None where it does not say.
        counts: of a GPU's program: see `hlo`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    fingerprint: str = Field(min_length=1)
    topology: str
    compiler: str
    fits: bool
    peak_bytes: int | None = Field(None, ge=0)
    argument_bytes: int | None = None
    output_bytes: int | None = None
    temp_bytes: int | None = None
    flops: float | None = None
    bytes_accessed: float | None = None
    counts: dict[str, int] | None = None
    seconds: float = Field(ge=0)
    date: str


class Answer(NamedTuple):
    """A program's numbers, and where they come from; `program` is an earlier version's where it needs compiling."""

    how: How
    program: Program | None

    @property
    def known(self) -> bool:
        return self.how != "needs compiling"

    def __str__(self) -> str:
        if self.program is None or not self.known:
            return self.how
        took = f"{self.program.seconds:.0f} s"
        return f"compiled in {took}" if self.how == "compiled" else f"recalled ({self.program.date[:10]}, {took})"


def told(how: str, answers: Sequence[Answer], value: Callable[[], float]) -> dict[str, Any]:
    """The value and the note of a record that programs were asked for; pending where one of them is not known.

    Args:
        how: the command that compiles them.
    """
    if not all(answer.known for answer in answers):
        return {"value": None, "pending": how}
    return {"value": value(), "note": "; ".join(dict.fromkeys(map(str, answers)))}


def fingerprint(text: str, compiler: str, topology: str, options: Mapping[str, str] = {}) -> str:
    """What two programs share that compile to the same: text (without locations), compiler, its options, topology."""
    parts = text, compiler, topology, *(f"{name}={options[name]}" for name in sorted(options))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


class Store:
    """Programs on disk, one per line and sorted by name, so that a change of one is a change of one line.

    Args:
        path: `<baseline-dir>/<platform>/programs.jsonl`; it need not exist.
    Raises:
        ValueError: a line that is no program.
    """

    def __init__(self, path: Path) -> None:
        cure = "restore the file from version control, or delete the line and compile the program again"
        self.path = Path(path)
        self._file: JsonLines[Program] = JsonLines(path, Program, cure, appended=False)
        self._programs = {program.name: program for program in self._file.read()}

    def __len__(self) -> int:
        return len(self._programs)

    def named(self, name: str) -> Program | None:
        return self._programs.get(name)

    def recall(self, name: str, mark: str) -> Program | None:
        """The program of this fingerprint, whatever it was called."""
        own = self._programs.get(name)
        if own and own.fingerprint == mark:
            return own
        return next((program for program in self._programs.values() if program.fingerprint == mark), None)

    def keep(self, program: Program) -> None:
        """Remember a program in place of the earlier one of its name; it is on disk when this returns.

        Raises:
            OSError: the folder cannot be written.
        """
        self._programs[program.name] = program
        self._file.write((self._programs[name] for name in sorted(self._programs)), exclude_none=True)


class Compiler(NamedTuple):
    """Answers for programs: recalled where nothing has changed, compiled where that is allowed.

    Args:
        store: what is known; None remembers nothing.
        topology, version: what programs are compiled for, and with.
        large: whether large programs may be compiled, too.
        compile: what compiles.
        options: the compiler's, which a program's text does not show.
        better: whose word goes before this one's, where it knows a program.
    """

    store: Store | None
    topology: str
    version: str
    large: bool = False
    compile: Callable[[jax.stages.Lowered], Outcome] = compiled
    options: Mapping[str, str] = {}
    better: Compiler | None = None

    def mark(self, lowered: jax.stages.Lowered) -> str:
        return fingerprint(lowered.as_text(), self.version, self.topology, self.options)

    def recall(self, name: str, lowered: jax.stages.Lowered) -> Program | None:
        """What is known of an unchanged program."""
        if self.better and (found := self.better.recall(name, lowered)):
            return found
        return None if self.store is None else self.store.recall(name, self.mark(lowered))

    def ask(self, name: str, lowered: jax.stages.Lowered, small: bool = False) -> Answer:
        """A small program is compiled each time it is asked for, in seconds, and never stored.

        Raises:
            CompileError: the compiler fails, and not for lack of memory.
        """
        if not small and (found := self.recall(name, lowered)):
            return Answer("recalled", found)
        if not small and not self.large:
            return Answer("needs compiling", self.store.named(name) if self.store is not None else None)
        outcome = self.compile(lowered)
        fields: dict[str, Any] = outcome._asdict() | {"seconds": round(outcome.seconds, 1)}
        program = Program(name=name, fingerprint=self.mark(lowered), topology=self.topology, compiler=self.version,
                          date=datetime.now(UTC).isoformat(timespec="seconds"), **fields)  # fmt: skip
        if not small and self.store is not None:
            self.store.keep(program)
        return Answer("compiled", program)


def expected_seconds(names: Iterable[str], store: Store) -> list[float]:
    """How long programs will take to compile: as long as their earlier versions, else as the middle of those did."""
    names = list(names)
    known = [program.seconds for name in names if (program := store.named(name))]
    middle = median(known) if known else UNKNOWN_SECONDS
    return [program.seconds if (program := store.named(name)) else middle for name in names]
