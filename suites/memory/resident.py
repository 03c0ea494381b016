"""A process of its own for the suite: put a clip through once, and print what that took beyond what was there.

On a CPU that is the peak resident size; elsewhere what the device's allocator says.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

PEAK, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# glibc then gives large blocks back when they are freed, and takes new ones that were not touched before.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m suites.memory.resident", description=__doc__)
    for name in ("backend", "preset", "dtype", "operation"):
        parser.add_argument(name)
    parser.add_argument("shape", type=json.loads, help="of the input, such as [1, 2, 12, 20, 16]")
    parser.add_argument("--compile", action="store_true", help="print what the compiler says, and run nothing")
    given = parser.parse_args()
    import twinvae

    vae = twinvae.load(given.backend, preset=given.preset, dtype=given.dtype)
    clip = np.random.default_rng(0).uniform(-1, 1, given.shape).astype(given.dtype)
    print(json.dumps(of_torch(vae, given.operation, clip) if given.backend == "torch" else of_jax(vae, given, clip)))


def of_torch(vae: Any, operation: str, clip: np.ndarray) -> dict[str, float]:
    run = vae.decode if operation == "decode" else vae.encode
    with resident() as found:
        run(clip)
    return found


def of_jax(vae: Any, given: argparse.Namespace, clip: np.ndarray) -> dict[str, float]:
    """The clip as one program, with the compiler's word beside what is measured."""
    import jax

    from twinvae.bench.aot.tpu_compiler import compiled_program

    lowered = (vae.lower_decode if given.operation == "decode" else vae.lower_encode)(clip.shape)
    program, outcome = compiled_program(lowered)
    said = {
        "peak": outcome.peak_bytes,
        "predicted above idle": outcome.peak_bytes - outcome.argument_bytes,
        "compiling": outcome.seconds,
    }
    if given.compile:
        return said
    arguments = jax.block_until_ready((vae.params, jax.numpy.asarray(clip)))
    device = jax.devices()[0]
    with resident() if device.platform == "cpu" else allocated(device) as found:
        jax.block_until_ready(program(*arguments))
    return said | found


@contextmanager
def resident() -> Iterator[dict[str, float]]:
    """How much larger the process was at its largest while the block ran than before it, in bytes."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    idle = psutil.Process().memory_info().rss
    found: dict[str, float] = {"idle": idle}
    if os.access(RESET, os.W_OK):
        RESET.write_text("5")  # the kernel's own high-water mark starts anew
        yield found
        lines = PEAK.read_text().splitlines()
        largest = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    else:
        with sampled(lambda: psutil.Process().memory_info().rss) as sizes:
            yield found
        largest = max(sizes)
    found["above idle"] = largest - idle


@contextmanager
def sampled(value: Callable[[], int], seconds: float = 0.002) -> Iterator[list[int]]:
    """Values taken again and again while the block runs, where the kernel keeps no mark."""
    values, over = [value()], threading.Event()

    def take() -> None:
        while not over.wait(seconds):
            values.append(value())

    thread = threading.Thread(target=take)
    thread.start()
    try:
        yield values
    finally:
        over.set()
        thread.join()
        values.append(value())


@contextmanager
def allocated(device: Any) -> Iterator[dict[str, float]]:
    """What a device's allocator held at the most, beyond what it held before.

    Its mark covers the whole process, and loading a model may have set it: ballast brings what is held up to it, so
    that all that the block takes comes on top.
    """
    held = device.memory_stats()
    found: dict[str, float] = {"idle": held["bytes_in_use"]}
    ballast = zeros_on(device, held["peak_bytes_in_use"] - held["bytes_in_use"])
    before = device.memory_stats()["bytes_in_use"]
    yield found
    found["above idle"] = device.memory_stats()["peak_bytes_in_use"] - before
    ballast.delete()


def zeros_on(device: Any, size: int) -> Any:
    """At least so many bytes, made there: a card's worth of them takes seconds to get to it."""
    import jax

    with jax.default_device(device):
        return jax.block_until_ready(jax.numpy.zeros((-(-size // 2**20), 2**20), "uint8"))


if __name__ == "__main__":
    main()
