"""Whether the TPU compiler takes a program, without waiting until it has made machine code of it."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path

import jax

from twinvae.bench.aot.tpu_compiler import CompileError, Outcome, compiled

# What XLA writes of a program that it takes, before it makes machine code; of one that it refuses, "oom_..." instead.
TAKEN = "*.after_optimizations_after_buffer_assignment.txt"
SECONDS = 0.5  # between looks


def refusal(lower: Callable[[], jax.stages.Lowered], options: Mapping[str, str]) -> Outcome | None:
    """What the compiler says of a program that needs too much memory; None of one that it takes.

    Machine code of large frames takes it an hour, and cannot be interrupted. So it compiles in a process of its own,
    which is stopped when memory has been laid out and is enough.

    Args:
        lower: makes the program; it can be pickled.
        options: the compiler's.
    Raises:
        CompileError: the compiler fails for another reason, or its process ends without a word.
    """
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="twinvae-") as folder:
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_compile, args=(lower, dict(options), folder, sender), daemon=True)
        process.start()
        sender.close()  # the other end is the process's alone, so that its death is seen here
        try:
            while not receiver.poll(SECONDS):
                if any(Path(folder).rglob(TAKEN)):
                    return None
            said = receiver.recv()
        except EOFError:
            process.join()
            raise CompileError(f"the compiler's process ends with {process.exitcode}, and says nothing") from None
        finally:
            process.kill()
            process.join()
    if isinstance(said, str):
        raise CompileError(said)
    return None if said.fits else said


def _compile(lower: Callable[[], jax.stages.Lowered], options: dict[str, str], folder: str, sender: Connection) -> None:
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        sender.send(compiled(lower(), options | {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}))
    except Exception as error:  # whatever it is, the process that waits is told, and raises it
        sender.send(f"{type(error).__name__}: {error}")


def _end_with_the_parent() -> None:
    """Whoever asked may be stopped without a chance to stop this process, which would compile for an hour in vain."""
    multiprocessing.parent_process().join()
    os._exit(1)
