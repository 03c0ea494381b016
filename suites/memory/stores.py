"""Where the TPU compiler's answers are kept, and the compiler that keeps them there."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from suites.harness.libtpu import CHIPS, installed, platform_of
from suites.harness.programs import Compiler, Store
from twinvae.compiling import compiler_options


def compiler_for(chip: str, baseline_dir: Path, large: bool) -> Compiler:
    """The compiler for a chip, with the store of its platform.

    Raises:
        ValueError: the store is not valid.
    """
    store = Store(baseline_dir / platform_of(chip) / "programs.jsonl")
    versions = f"libtpu {installed()}, jaxlib {version('jaxlib')}"
    return Compiler(store, CHIPS[chip].topology, versions, large, options=compiler_options("tpu"))
