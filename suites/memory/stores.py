"""Where the TPU compiler's answers are kept, and the compilers that keep them there."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from suites.harness.libtpu import CHIPS, installed, platform_of
from suites.harness.programs import Compiler, Store
from suites.harness.tpu_compiler import NO_MEMORY, sized
from twinvae.compiling import compiler_options


def compiler_for(chip: str, baseline_dir: Path, large: bool) -> Compiler:
    """The compiler for a chip, with the store of its platform.

    Raises:
        ValueError: the store is not valid.
    """
    store = Store(baseline_dir / platform_of(chip) / "programs.jsonl")
    return Compiler(store, CHIPS[chip].topology, _version(), large, options=compiler_options("tpu"))


def sizer_for(chip: str, baseline_dir: Path) -> Compiler:
    """The compiler for a chip that only says what programs need, with a store of its own.

    Raises:
        ValueError: the store is not valid.
    """
    store, options = Store(baseline_dir / platform_of(chip) / "sizes.jsonl"), compiler_options("tpu") | NO_MEMORY
    return Compiler(store, CHIPS[chip].topology, _version(), large=True, compile=sized, options=options)


def _version() -> str:
    return f"libtpu {installed()}, jaxlib {version('jaxlib')}"
