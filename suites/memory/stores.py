"""Where the compilers' answers are kept, and the compilers that keep them there."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from twinvae.bench.aot.compilers import compiler_version, platform_of, target
from twinvae.bench.aot.programs import Compiler, Store
from twinvae.bench.aot.tpu_compiler import MEMORY, SHORT, compiled, compiled_within, sized
from twinvae.jax.chips import CHIPS
from twinvae.jax.compiling import compiler_options


def compiler_for(chip: str, baseline_dir: Path, large: bool) -> Compiler:
    """The compiler for a chip, with the store of its platform.

    Raises:
        ValueError: the store is not valid.
    """
    store, spec = Store(baseline_dir / platform_of(chip) / "programs.jsonl"), CHIPS[chip]
    compile = compiled if spec.kind == "tpu" else partial(compiled_within, spec.usable_bytes)
    return Compiler(store, target(chip), compiler_version(chip), large, compile, compiler_options(spec.kind))


def sizer_for(chip: str, baseline_dir: Path, better: Compiler | None = None) -> Compiler:
    """The compiler for a chip that only says what programs need, with a store of its own; a GPU's compiles at once.

    Args:
        better: compiles in full; what it knows of a program goes first.

    Raises:
        ValueError: the store is not valid.
    """
    if CHIPS[chip].kind == "gpu":
        return compiler_for(chip, baseline_dir, large=True)
    store = Store(baseline_dir / platform_of(chip) / "sizes.jsonl")
    options = compiler_options("tpu") | {MEMORY: f"{SHORT} of what it needs"}
    return Compiler(store, target(chip), compiler_version(chip), True, sized, options, better)
