"""A pytest process that begins with everything imported that faults are not planted in: that saves 10 s of each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

# None of these is the project's own, and none starts a thread when it is imported.
IMPORTED = (
    "chex", "diffusers.models.autoencoders.autoencoder_kl_cogvideox", "flax.nnx", "imageio_ffmpeg", "jax.experimental",
    "jinja2", "matplotlib.figure", "pandas", "psutil", "pydantic", "pytest", "rich.console", "safetensors", "torch",
    "torchax",
)  # fmt: skip
PROJECT = ("impl_flax", "impl_torchax", "suites", "trials", "twinvae")
POLL = 0.05  # seconds

_CONTEXT = multiprocessing.get_context("forkserver")
_running: set[BaseProcess] = set()


def run_pytest(
    arguments: Sequence[str], cwd: Path, output: Path, limit: float, until: Path | None = None
) -> int | None:
    """Run pytest in a process group of its own, in which `cwd` comes first among the places to import from.

    Args:
        output: the file that it writes to.
        limit: seconds after which the group is killed.
        until: a file at whose appearance the group is stopped, because what comes after it is of no interest.

    Returns:
        The exit status, 0 where it was stopped at the file; None where it was killed at the limit.
    """
    deadline = time.monotonic() + limit
    with _group(arguments, str(cwd), str(output)) as process:
        while process.is_alive():
            if until is not None and until.exists():
                return 0
            if time.monotonic() > deadline:
                return None
            time.sleep(POLL)
        return process.exitcode


def kill_all() -> None:
    """Stop everything that runs, as Ctrl-C does not reach the groups."""
    for process in list(_running):
        _kill(process)


def import_once() -> None:
    """Before the first process: have all of them begin with what is imported."""
    _CONTEXT.set_forkserver_preload(list(IMPORTED))


@contextlib.contextmanager
def loaded(wanted: bool = True) -> Iterator[None]:
    """Keep every core busy with a process of its own."""
    cores = psutil.cpu_count() if wanted else 0
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


@contextlib.contextmanager
def _group(*given: object) -> Iterator[BaseProcess]:
    """A process and its children, gone when the block is left."""
    process = _CONTEXT.Process(target=_pytest, args=given)
    process.start()
    _running.add(process)
    try:
        yield process
    finally:
        _kill(process)
        _running.discard(process)


def _kill(process: BaseProcess) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


def _pytest(arguments: Sequence[str], cwd: str, output: str) -> None:
    """What the process does."""
    os.setsid()
    with open(output, "wb") as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    os.chdir(cwd)
    sys.path.insert(0, cwd)
    # multiprocessing imports the parent's main module, and with it the project as it is there instead of in `cwd`.
    for name in [name for name in sys.modules if name.partition(".")[0] in PROJECT]:
        del sys.modules[name]
    import pytest

    sys.exit(int(pytest.main(list(arguments))))
