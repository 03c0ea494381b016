"""What compiled programs cost, exactly: flops, bytes, operations in the optimised HLO, and how many are compiled."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax

from twinvae.jax.backend import JaxVideoVAE

# One operation of an HLO text: `%name = type opcode(`, with a type that may be a tuple. Operations inside fusions count
# as well: a transpose that is fused still moves its bytes.
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (?:\(.*?\)|\S+) ([\w\-]+)\(", re.MULTILINE)
_CUSTOM_CONVOLUTION = re.compile(r'custom_call_target="[^"]*conv[^"]*"', re.IGNORECASE)
_WRITTEN = re.compile(r"= \"?stablehlo\.(\w+)")
# `stablehlo.convolution(%a, %b) ... : (tensor<1x2xf32>, ...`, and dot_general likewise: the type of the first operand.
_WRITTEN_PRODUCT = re.compile(r"stablehlo\.(?:convolution|dot_general)\b[^\n]*?: \(tensor<(?:\d+x)*(\w+)>")
_CALL = re.compile(r"PjitFunction\((.*)\)")
_STAGES = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "compiling",
}
COMPILING = "compiling"
NETWORK = f"jit({JaxVideoVAE.step.__name__})"  # the name of the program that is an encoder or a decoder
PRODUCTS_IN_FLOAT32 = "products in float32 as written"


class Stage(NamedTuple):
    """A stage of getting a program ready: tracing, lowering or compiling, with the clock's time at its two ends."""

    stage: str
    program: str
    began: float
    ended: float


def program_costs(lowered: jax.stages.Lowered) -> dict[str, float]:
    """Numbers that tell what a program costs, whatever the machine is doing.

    Of the optimised program: flops, bytes accessed, bytes of what lies between its operations (an activation that is
    kept alive adds its own), fusions, convolutions, transposes, copies. Of the program as it was written: its
    operations (a loop in Python multiplies them), and convolutions and matrix products in float32 (which a bfloat16
    program should have none of).
    """
    compiled = lowered.compile()
    text, written = compiled.as_text() or "", lowered.as_text()
    cost, memory = compiled.cost_analysis() or {}, compiled.memory_analysis()
    counts = Counter(_OPERATION.findall(text))
    return {
        "flops": cost.get("flops", 0.0),
        "bytes accessed": cost.get("bytes accessed", 0.0),
        "temporary bytes": getattr(memory, "temp_size_in_bytes", 0),
        "fusions": counts["fusion"],
        "convolutions": counts["convolution"] + len(_CUSTOM_CONVOLUTION.findall(text)),
        "matrix products": counts["dot"],
        "transposes": counts["transpose"],
        "copies": counts["copy"] + counts["copy-start"],
        "operations as written": len(_WRITTEN.findall(written)),
        PRODUCTS_IN_FLOAT32: _WRITTEN_PRODUCT.findall(written).count("f32"),
    }


def written_operations(lowered: jax.stages.Lowered) -> int:
    """How many operations a program has as it was written, before anything is compiled."""
    return len(_WRITTEN.findall(lowered.as_text()))


def dispatches(call: Callable[..., Any], *args: Any) -> int:
    """How many programs (or, run eagerly, operations) a call hands to the device, found by tracing it."""
    return len(jax.make_jaxpr(call)(*args).eqns)


@contextmanager
def operations() -> Iterator[Counter[str]]:
    """How often each operation, or compiled program, is handed over while the block runs, by name; full after it.

    Read from JAX's profiler, which sees calls that take the fast way past Python as well. Call what is to be counted
    once before: an operation that is compiled calls others.
    """
    found: Counter[str] = Counter()
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            yield found
        for path in Path(folder).rglob("*.xplane.pb"):
            for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
                for thread in plane.lines:
                    found.update(_handed_over(thread.events))


def _handed_over(events: Iterable[Any]) -> Iterator[str]:
    """The names of the jitted functions that a thread called; an event of the same name within one is the same call."""
    until: dict[str, float] = {}
    for event in sorted(events, key=lambda event: event.start_ns):
        call = _CALL.fullmatch(event.name)
        if call and event.start_ns >= until.get(event.name, 0.0):
            until[event.name] = event.start_ns + event.duration_ns
            yield call.group(1)


def transpositions(found: Counter[str]) -> int:
    """How many of the operations are transpositions."""
    return sum(count for name, count in found.items() if re.search("transpose|moveaxis|swapaxes", name))


@contextmanager
def stages() -> Iterator[list[Stage]]:
    """A list that grows with every stage of every program that JAX gets ready while the block runs."""
    found: list[Stage] = []

    def note(event: str, duration_secs: float, **about: str | int | float) -> None:
        if event in _STAGES:
            ended = time.perf_counter()
            found.append(Stage(_STAGES[event], str(about.get("fun_name", "")), ended - duration_secs, ended))

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def compiled(found: list[Stage], program: str | None = None) -> int:
    """How many programs were compiled, or how many of a name."""
    return sum(one.stage == COMPILING and program in (None, one.program) for one in found)


def seconds_by_stage(found: list[Stage]) -> dict[str, float]:
    """Seconds per stage; tracing inside of tracing counts once."""
    seconds = dict.fromkeys(_STAGES.values(), 0.0)
    for stage in seconds:
        until = float("-inf")
        for one in sorted((one for one in found if one.stage == stage), key=lambda one: one.began):
            seconds[stage] += max(0.0, one.ended - max(one.began, until))
            until = max(until, one.ended)
    return seconds
