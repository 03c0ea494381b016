"""Programs of a backend, lowered for a chip and put to its compiler, each once per run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax

import twinvae
from suites.memory.cases import GB
from suites.memory.pieces import Piece
from twinvae.bench.aot.compilers import sharding_on
from twinvae.bench.aot.programs import Answer, Compiler, Store, expected_seconds
from twinvae.bench.aot.refusal import refusal
from twinvae.jax.chips import CHIPS

HOW = "nox -s memory -- --aot {chip}"
Say = Callable[[str], None]


class Programs:
    """Answers for the programs of one VAE on one chip.

    Args:
        vae: of a JAX backend.
        label: of its model.
        chip: such as "v6e".
        starts: told the name of a program before it is compiled.
        again: lowers a program in another process, for a compiler that stops one there; it can be pickled.
    """

    def __init__(
        self, vae: twinvae.VideoVAE, label: str, chip: str, compiler: Compiler, starts: Say = lambda name: None,
        again: Callable[[str, Piece, int], jax.stages.Lowered] | None = None,
    ) -> None:  # fmt: skip
        self.vae, self.label, self.chip, self.compiler, self.starts = vae, label, chip, compiler, starts
        self.again = again
        self._lowered: dict[str, jax.stages.Lowered] = {}
        self._answers: dict[str, Answer] = {}

    def name(self, operation: str, piece: Piece, devices: int = 1) -> str:
        """What a program is called in the store."""
        size = "x".join(map(str, piece.shape)) + (f" {piece.form}" if piece.form else "")
        over = f", rows on {devices} devices" if devices > 1 else ""
        return f"{self.vae.backend} {operation} {piece.kind} {size}, {self.label} {self.vae.dtype}{over}"

    def needs_compiling(self, operation: str, piece: Piece, devices: int = 1) -> bool:
        name = self.name(operation, piece, devices)
        return name not in self._answers and not self.compiler.recall(name, self._lower(operation, piece, devices))

    def ask(self, operation: str, piece: Piece, devices: int = 1) -> Answer:
        """What the compiler says of a program; it is lowered and asked for once."""
        name = self.name(operation, piece, devices)
        if name not in self._answers:
            lowered = self._lower(operation, piece, devices)
            if self.compiler.large and not self.compiler.recall(name, lowered):
                self.starts(name)
            compiler = self.compiler
            if self.again:
                refused = partial(refusal, partial(self.again, operation, piece, devices))
                compiler = compiler._replace(compile=partial(compiler.compile, refusal=refused))
            self._answers[name] = compiler.ask(name, lowered)
            del self._lowered[name]
        return self._answers[name]

    def confirm(self, operation: str, piece: Piece, devices: int = 1) -> Answer:
        """What the better compiler says of a program; its word stands from now on."""
        name = self.name(operation, piece, devices)
        lowered = self._lower(operation, piece, devices)
        if not self.compiler.better.recall(name, lowered):
            self.starts(f"{name}, in full")
        self._answers[name] = self.compiler.better.ask(name, lowered)
        del self._lowered[name]
        return self._answers[name]

    def _lower(self, operation: str, piece: Piece, devices: int) -> jax.stages.Lowered:
        name = self.name(operation, piece, devices)
        if name not in self._lowered:
            self._lowered[name] = lowered_for(self.chip, self.vae, operation, piece, devices)
        return self._lowered[name]


def lowered_for(chip: str, vae: twinvae.VideoVAE, operation: str, piece: Piece, devices: int = 1) -> jax.stages.Lowered:
    """A program for devices of a chip."""
    sharding = sharding_on(chip, devices)
    if piece.kind != "whole":
        first, alone = piece.kind != "later", piece.kind == "alone"
        return vae.lower_step(operation, piece.shape, sharding, first=first, form=piece.form, alone=alone)
    return (vae.lower_encode if operation == "encode" else vae.lower_decode)(piece.shape, sharding)


def told(answers: Iterable[Answer], chip: str, value: Callable[[], float]) -> dict[str, Any]:
    """The value, note and `pending` of a record that programs were asked for."""
    answers = list(answers)
    if not all(answer.known for answer in answers):
        before = [answer.program.peak_bytes for answer in answers if answer.program and answer.program.peak_bytes]
        note = f"was {max(before) / GB:.3g} GB before it changed" if before else "never compiled"
        return {"value": None, "pending": HOW.format(chip=chip), "note": note}
    refused = [answer for answer in answers if not answer.program.fits]
    note = "; ".join(dict.fromkeys(str(answer) for answer in answers))
    if refused:
        note = f"does not fit the {CHIPS[chip].usable_gib} GiB of a {chip}; {note}"
    if any(answer.program.peak_bytes is None for answer in answers):
        return {"value": None, "note": note}
    return {"value": value(), "note": note}


class Progress:
    """Lines that say how far the programs of a run that have to be compiled have come, and how long the rest takes."""

    def __init__(self, names: Iterable[str], store: Store, say: Say, clock: Callable[[], float] = time.monotonic):
        self._left = dict(zip(names, expected_seconds(names, store), strict=True))
        self._count, self._say, self._clock, self._start = len(self._left), say, clock, clock()

    def starts(self, name: str) -> None:
        """To be called before a program is compiled."""
        if name in self._left:
            place, left = self._count - len(self._left) + 1, sum(self._left.values())
            gone = self._clock() - self._start
            del self._left[name]
            self._say(f"compiling {place} of {self._count}, {minutes(gone)} gone, about {minutes(left)} left: {name}")


def minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
