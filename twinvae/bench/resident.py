"""How much memory a block of code takes: of a CPU the peak resident size, elsewhere what the allocator says."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

PEAK, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


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
    """What a device's allocator held at the most, beyond what it held before; unknown where others leave no room.

    Its mark covers the whole process, and loading a model may have set it: ballast brings what is held up to it, so
    that all that the block takes comes on top.
    """
    held = device.memory_stats()
    found: dict[str, float] = {"idle": held["bytes_in_use"]}
    ballast = _room_for(device, held["peak_bytes_in_use"] - held["bytes_in_use"])
    before = device.memory_stats()["bytes_in_use"]
    yield found
    if ballast is not None:
        found["above idle"] = device.memory_stats()["peak_bytes_in_use"] - before
        ballast.delete()


def _room_for(device: Any, size: int) -> Any:
    """So many bytes on a device; None where there is no room for them."""
    import jax

    try:
        return zeros_on(device, size)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None


def zeros_on(device: Any, size: int) -> Any:
    """At least so many bytes, made there: a card's worth of them takes seconds to get to it."""
    import jax

    with jax.default_device(device):
        return jax.block_until_ready(jax.numpy.zeros((-(-size // 2**20), 2**20), "uint8"))
