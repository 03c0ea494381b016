"""What a compiler says of a program; the TPU compiler, run where there is no TPU, with devices to lower for."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from twinvae.bench.aot.hlo import Compiled
from twinvae.bench.aot.libtpu import INSTALL, expect_no_tpu, installed
from twinvae.jax.chips import TPUS
from twinvae.jax.memory import compiled_for, peak_bytes

ROWS = PartitionSpec(None, None, "rows")  # of [b, t, h, w, c]
MEMORY = "xla_tpu_max_hbm_size_mib"  # libtpu's option for how much memory a chip has
SHORT = 0.99  # of what a program needs: memory with which the compiler refuses it
# "... required for HLO temporaries (40.28G) exceeds available HBM (31.25G)", "Used 40.28G of 31.25G hbm"
_NEEDED = (
    re.compile(r"Used ([\d.]+)([KMGTP]?) of [\d.]+[KMGTP]? hbm", re.IGNORECASE),
    re.compile(r"\(([\d.]+)([KMGTP]?)\) exceeds available HBM", re.IGNORECASE),
)
_LOCKED = re.compile(r"lockfile|already in use|multi-process lock", re.IGNORECASE)


class CompileError(RuntimeError):
    """A program that the compiler refuses for another reason than memory."""


class Outcome(NamedTuple):
    """What a compiler says of a program.

    Attributes:
        fits: whether there is memory enough; a TPU's compiler says nothing but the peak where there is not.
        peak_bytes: arguments and outputs included; of a program that does not fit, what the compiler says it needs,
            or None where it does not say.
        seconds: how long compiling took.
        counts: of a GPU's program, what it consists of: see `hlo`.
    """

    fits: bool
    peak_bytes: int | None
    seconds: float
    argument_bytes: int | None = None
    output_bytes: int | None = None
    temp_bytes: int | None = None
    flops: float | None = None
    bytes_accessed: float | None = None
    counts: dict[str, int] | None = None


Refusal = Callable[[Mapping[str, str]], Outcome | None]  # of the compiler's options


@cache
def devices(topology: str) -> tuple[Any, ...]:
    """The devices of a topology, to lower programs for.

    Raises:
        RuntimeError: libtpu is not installed, or another process holds its lock; the message says what to do.
        ValueError: libtpu does not know the topology.
    """
    if not installed():
        raise RuntimeError(INSTALL)
    expect_no_tpu()
    try:
        return tuple(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except jax.errors.JaxRuntimeError as error:
        raise refused_topology(topology, str(error)) from None


def refused_topology(topology: str, message: str) -> Exception:
    """What to raise where libtpu gives no devices."""
    if _LOCKED.search(message):
        return RuntimeError(
            f"libtpu is held by another process ({message}): wait for it, or set ALLOW_MULTIPLE_LIBTPU_LOAD=1 on a "
            "machine without a TPU"
        )
    known = ", ".join(f"{chip.topology} ({name})" for name, chip in TPUS.items())
    return ValueError(f"libtpu knows no topology {topology!r} ({message}): choose one such as {known}")


def sharding_on(chip: str, count: int = 1) -> Sharding:
    """One device of a chip, or several with the rows of a frame dealt out among them."""
    found = devices(TPUS[chip].topology)
    if count == 1:
        return SingleDeviceSharding(found[0])
    return NamedSharding(Mesh(np.array(found[:count]), ("rows",)), ROWS)


def compiled(lowered: jax.stages.Lowered, options: Mapping[str, str] = {}) -> Outcome:
    """Compile a program; one that does not fit is an answer, too.

    Raises:
        CompileError: it fails for another reason.
    """
    start = time.perf_counter()
    try:
        return compiled_program(lowered, options)[1]
    except jax.errors.JaxRuntimeError as error:
        return failed(str(error), time.perf_counter() - start)


def compiled_within(memory: int, lowered: jax.stages.Lowered) -> Outcome:
    """The same by a compiler that refuses nothing: a GPU's lays out more than its card has, too.

    Args:
        memory: bytes that a program may take.
    """
    outcome = compiled(lowered)
    return outcome._replace(fits=outcome.fits and (outcome.peak_bytes or 0) <= memory)


def sized(lowered: jax.stages.Lowered, refusal: Refusal | None = None) -> Outcome:
    """What the compiler says that a program needs, in seconds and not in minutes.

    It asks that before it makes machine code, and gives up where a chip has less: of a chip with no memory, always.
    With more memory it needs up to 0.4 % more on one device, and a quarter on two, so it is asked once more, of a chip
    that lacks 1 %: 31.24 GiB without memory, 31.26 with 27.3, 31.29 with any from 30.3 to 31.25. That decides whether
    a program is compiled for a chip, and is above the peak of the compiled program: by 0.1 to 1.2 % in nine programs of
    the full architecture for v6e, with peaks of 1.8 to 18.9 GiB, by 8 % in a tenth with 28.9. It leaves out machine
    code, 0.07 GiB of one like that tenth, and vector memory, in which single layers have most activations. A program
    that is taken after all when 1 % is lacking needs the first answer at most.

    Args:
        refusal: asks the second time, and gives None of a program that is taken; left out, such a program is compiled
            to the end.
    Returns:
        `fits` is False, unless the program was compiled to the end.
    Raises:
        CompileError: it fails for another reason.
    """
    start = time.perf_counter()
    first = _compiled_with(lowered, 2**20)
    if first.fits:
        raise CompileError(f"the compiler takes a program for a chip without memory: it no longer heeds {MEMORY}")
    if first.peak_bytes is None:
        return first
    short = int(SHORT * first.peak_bytes)
    again = (refusal(_with(short)) or first) if refusal else _compiled_with(lowered, short)
    return again._replace(seconds=time.perf_counter() - start)


def _compiled_with(lowered: jax.stages.Lowered, memory: int) -> Outcome:
    """Compile a program for a chip with so many bytes of memory."""
    return compiled(lowered, _with(memory))


def _with(memory: int) -> dict[str, str]:
    """The option that gives a chip so many bytes of memory, rounded to MiB."""
    return {MEMORY: str(max(memory // 2**20, 1))}


def compiled_program(
    lowered: jax.stages.Lowered, options: Mapping[str, str] = {}
) -> tuple[jax.stages.Compiled, Outcome]:
    """A program that fits, and what its compiler says of it; whatever the compiler raises is raised."""
    start = time.perf_counter()
    program = lowered.compile(compiler_options=dict(options))
    seconds = time.perf_counter() - start
    memory, cost = program.memory_analysis(), program.cost_analysis() or {}
    outcome = Outcome(
        True,
        peak_bytes(program),
        seconds,
        memory.argument_size_in_bytes,
        memory.output_size_in_bytes,
        memory.temp_size_in_bytes,
        cost.get("flops"),
        cost.get("bytes accessed"),
    )
    if compiled_for(program) == "gpu":
        read = Compiled(program.as_text() or "")
        outcome = outcome._replace(flops=read.flops(), bytes_accessed=read.bytes_accessed(), counts=read.counts())
    return program, outcome


def failed(message: str, seconds: float) -> Outcome:
    """What a compiler's error comes to.

    Raises:
        CompileError: it is not for lack of memory.
    """
    if "RESOURCE_EXHAUSTED" not in message:
        raise CompileError(f"the compiler fails, and not for lack of memory: {message}")
    return Outcome(False, needed_bytes(message), seconds)


def needed_bytes(message: str) -> int | None:
    """How much memory a program takes that does not fit, where the compiler's message says so.

    The message rounds to two digits after the point, and this is the most that it may stand for.
    """
    for pattern in _NEEDED:
        if match := pattern.search(message):
            return int((float(match[1]) + 0.005) * 1024 ** " KMGTP".index(match[2].upper() or " "))
    return None
