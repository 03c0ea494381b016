"""Where the TPU compiler's answers are kept, and the compilers that keep them there."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from twinvae.bench.aot.libtpu import installed, platform_of
from twinvae.bench.aot.programs import Compiler, Store
from twinvae.bench.aot.tpu_compiler import MEMORY, SHORT, sized
from twinvae.jax.chips import TPUS
from twinvae.jax.compiling import compiler_options


def compiler_for(chip: str, baseline_dir: Path, large: bool) -> Compiler:
    """The compiler for a chip, with the store of its platform.

    Raises:
        ValueError: the store is not valid.
    """
    store = Store(baseline_dir / platform_of(chip) / "programs.jsonl")
    return Compiler(store, TPUS[chip].topology, _version(), large, options=compiler_options("tpu"))


def sizer_for(chip: str, baseline_dir: Path, better: Compiler | None = None) -> Compiler:
    """The compiler for a chip that only says what programs need, with a store of its own.

    Args:
        better: compiles in full; what it knows of a program goes first.

    Raises:
        ValueError: the store is not valid.
    """
    store = Store(baseline_dir / platform_of(chip) / "sizes.jsonl")
    options = compiler_options("tpu") | {MEMORY: f"{SHORT} of what it needs"}
    return Compiler(store, TPUS[chip].topology, _version(), True, sized, options, better)


def _version() -> str:
    return f"libtpu {installed()}, jaxlib {version('jaxlib')}"
