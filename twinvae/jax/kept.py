"""Compiled programs that are kept in a folder for the next process, by JAX's persistent compilation cache."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

SECONDS = 0.0  # even op by op, looking a program up takes less than compiling it


def user_cache() -> Path:
    """Ours in the user's cache folder, as the XDG base directories have it."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "twinvae"


def default_folder() -> Path:
    return user_cache() / "programs"


def machine() -> str:
    """What a compiled program is for, besides what JAX's own key says: this XLA on this processor."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    traits = (re.search(rf"^{name}\s*:.*$", text, re.MULTILINE) for name in ("model name", "flags"))
    made_by = [f"{package} {version(package)}" for package in ("jax", "jaxlib")]
    return hashlib.sha256("\n".join(made_by + [match[0] for match in traits if match]).encode()).hexdigest()[:12]


@contextmanager
def keeping(folder: Path | None) -> Iterator[None]:
    """Programs that are compiled while the block runs are kept in a folder, and taken from it; None: neither."""
    names = ("jax_compilation_cache_dir", "jax_enable_compilation_cache", "jax_persistent_cache_min_compile_time_secs",
             "jax_persistent_cache_min_entry_size_bytes")  # fmt: skip
    before = [getattr(jax.config, name) for name in names]
    wanted = before if folder is None else [str(folder), True, SECONDS, -1]
    for name, value in zip(names, wanted, strict=True):
        jax.config.update(name, value)
    if folder is None:
        jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # else JAX goes on as it began
    try:
        yield
    finally:
        for name, value in zip(names, before, strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
