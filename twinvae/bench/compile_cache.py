"""A pytest plugin: programs that a run of the suites compiles are kept, where compiling is not what is measured."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from twinvae.jax.kept import default_folder, keeping, machine

FOLDER = pytest.StashKey[Path | None]()
WRITING = "Error writing persistent compilation cache entry"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("twinvae")
    group.addoption(
        "--compile-cache", metavar="DIR", help="where compiled programs are kept (default: the user's cache)"
    )
    group.addoption("--no-compile-cache", action="store_true", help="compile everything anew, and keep nothing")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "compiles: compiling is what this test measures, so nothing is taken from a cache"
    )
    config.stash[FOLDER] = None
    if config.option.no_compile_cache or config.option.help or config.option.collectonly:
        return
    folder = Path(config.option.compile_cache or default_folder()) / machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"probe-{os.getpid()}"
        probe.write_bytes(b"0" * 4096)
        probe.unlink()
    except OSError as error:
        warnings.warn(f"compiled programs are not kept: {error}; --compile-cache names another folder", stacklevel=1)
        return
    config.stash[FOLDER] = folder
    warnings.filterwarnings("once", message=WRITING)  # a disk that fills up is said to be full once


@pytest.fixture(autouse=True)
def _kept_programs(request: pytest.FixtureRequest) -> Iterator[None]:
    folder = request.config.stash[FOLDER]
    with keeping(None if request.node.get_closest_marker("compiles") else folder):
        yield
