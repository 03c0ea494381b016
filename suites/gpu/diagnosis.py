"""A program of a card, taken apart: what it needs, its largest values, its convolutions; the whole text is kept."""

from __future__ import annotations

import gzip
import time
from collections import Counter
from pathlib import Path

import jax

import twinvae
from suites.gpu.steps import Step
from suites.speed.cases import Group
from suites.speed.contenders import input_of
from twinvae.bench.aot.hlo import Compiled, labels
from twinvae.bench.options import Model

SHOWN = 25


def diagnose(step: Step, model: Model, texts: Path) -> None:
    """Compile the first frame batch of a call, and print what its compiler made of it; a refusal is printed whole."""
    texts.mkdir(parents=True, exist_ok=True)
    for contender in step.contenders:
        vae = twinvae.load(contender.backend, **model.source, dtype="bfloat16")
        for operation in step.operations:
            shape = input_of(Group(model, operation, step.size, "bfloat16", 1, 1), 0).shape
            name = f"{contender.backend}-{operation}-{step.size}"
            lowered = vae.lower_step(operation, shape, first=True)
            with gzip.open(texts / f"{name}-written.txt.gz", "wt") as file:
                file.write(lowered.as_text())
            start = time.perf_counter()
            try:
                compiled = lowered.compile()
            except jax.errors.JaxRuntimeError as error:
                print(f"{name}: refused after {time.perf_counter() - start:.1f} s: {str(error)[:6000]}", flush=True)
                continue
            text = compiled.as_text()
            with gzip.open(texts / f"{name}-compiled.txt.gz", "wt") as file:
                file.write(text)
            print(f"{name}: compiled in {time.perf_counter() - start:.1f} s", compiled.memory_analysis(), sep="\n")
            print(*described(text), sep="\n", flush=True)
            again = lowered.compile()  # from JAX's cache, if it is on
            print(f"compiled again: {again.memory_analysis()}", flush=True)


def described(text: str) -> list[str]:
    """Convolutions by target, type and axes, operations by number, and the largest values of an optimised program."""
    found = [one for computation in Compiled(text).computations.values() for one in computation.values()]
    convolutions = Counter(
        f"{one.target} {one.results[0].dtype} {labels(one)[0]}" for one in found if one.is_convolution
    )
    lines = [f"{count:5} {what}" for what, count in convolutions.most_common()]
    operations = Counter(one.opcode for one in found).most_common(15)
    lines.append(", ".join(f"{name} {count}" for name, count in operations))
    values = Counter((one.results[0].bytes, f"{one.opcode} {one.results[0]}") for one in found if one.results)
    largest = sorted(values.items(), reverse=True)[:SHOWN]
    return lines + [f"{size / 1e9:8.3f} GB x {count} {what}" for (size, what), count in largest]
