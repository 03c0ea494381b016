"""What compiled programs cost, exactly: flops, bytes, operations in the optimised HLO, and how many are compiled."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from unittest import mock

import jax
from jax.extend.core import Primitive

from twinvae.jax.backend import JaxVideoVAE

# One operation of an HLO text: `%name = type opcode(`, with a type that may be a tuple. Operations inside fusions count
# as well: a transpose that is fused still moves its bytes.
_OPERATION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (?:\(.*?\)|\S+) ([\w\-]+)\(", re.MULTILINE)
_CUSTOM_CONVOLUTION = re.compile(r'custom_call_target="[^"]*conv[^"]*"', re.IGNORECASE)
_WRITTEN = re.compile(r"= \"?stablehlo\.(\w+)")
# `stablehlo.convolution(%a, %b) ... : (tensor<1x2xf32>, ...`, and dot_general likewise: the type of the first operand.
_WRITTEN_PRODUCT = re.compile(r"stablehlo\.(?:convolution|dot_general)\b[^\n]*?: \(tensor<(?:\d+x)*(\w+)>")
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
    """How often JAX is asked for each primitive, by name, while the block runs.

    What a compiled program holds is not seen once it is compiled: call what is to be counted before.
    """
    found: Counter[str] = Counter()
    bind = Primitive.bind

    def counted(primitive: Primitive, *given: Any, **settings: Any) -> Any:
        found[primitive.name] += 1
        return bind(primitive, *given, **settings)

    with mock.patch.object(Primitive, "bind", counted):
        yield found


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
