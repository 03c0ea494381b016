"""A group measured: first calls taken apart, then all contenders in turn; and the values that come of it."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch

from suites.speed.bars import (
    AGAIN,
    COSTS,
    COUNTS,
    GATE,
    GATED,
    MEMORY,
    OVER_COMPILED,
    OVER_JIT,
    OVER_PYTORCH,
    SHOWN,
    TIMES,
    VS_COMPILED,
    VS_REFERENCE,
)
from suites.speed.cases import COMPILED, PYTORCH, Contender, Group
from suites.speed.contenders import call_bytes, evidence, input_of, load, out_of_memory, ready
from suites.speed.peak import nominal_flops, peak
from twinvae import VideoVAE
from twinvae.bench.bars import Bar
from twinvae.bench.timing import (
    ENOUGH,
    FASTEST,
    QUIET,
    Estimate,
    Run,
    Timings,
    foreign_load,
    median,
    ratio,
    time_in_turn,
)
from twinvae.bench.xla_cost import PRODUCTS_IN_FLOAT32, compiled, seconds_by_stage, stages
from twinvae.registry import REFERENCE

PATIENCE = 20.0  # seconds for which quiet rounds are waited for
LONG_CALL = 2.0  # seconds from which a call needs no second one to warm up
FAILED = "failed: see the failed tests"


class FirstCall(NamedTuple):
    """The first call of a contender: seconds of all of it and of its stages, and how many programs were compiled.

    Attributes:
        stages: tracing, lowering, compiling and running; for what is no JAX program, running alone.
        foreign: the share of the cores that other processes took meanwhile.
    """

    seconds: float
    stages: dict[str, float]
    programs: int
    foreign: float


@dataclass
class Measured:
    """What is known of a group.

    Attributes:
        again: programs compiled in calls after the first, and that should be none.
        programs: of jitted contenders, the exact costs of each program; dispatches: how many programs a call runs.
        memory: bytes that a call takes on an accelerator beside what is held before it.
        failures: what contenders raised, running out of memory included.
    """

    group: Group
    timings: Timings = field(default_factory=lambda: Timings({}, {}))
    first: dict[Contender, FirstCall] = field(default_factory=dict)
    again: dict[Contender, int] = field(default_factory=dict)
    programs: dict[Contender, dict[str, dict[str, float]]] = field(default_factory=dict)
    dispatches: dict[Contender, int] = field(default_factory=dict)
    memory: dict[Contender, float] = field(default_factory=dict)
    failures: dict[Contender, Exception] = field(default_factory=dict)

    def note(self, contender: Contender) -> str:
        """Why there is no value of a contender."""
        error = self.failures.get(contender)
        if error is None:
            return ""
        return "out of memory" if out_of_memory(error) else FAILED


def measure(
    group: Group,
    contenders: Sequence[Contender],
    seed: int = 0,
    vae_of: Callable[[Contender, Group], VideoVAE] = load,
    costs: bool = True,
) -> Measured:
    """Measure contenders in turn; one that fails is left out, and the others go on.

    Args:
        costs: whether programs are taken apart for their exact costs, for which they are compiled once more.
    """
    measured = Measured(group)
    clip = input_of(group, seed)
    runs: dict[Contender, Run] = {}
    for contender in contenders:
        try:
            vae = vae_of(contender, group)
            run = ready(vae, contender, group, clip)
            measured.first[contender] = _first_call(run)
            if costs and contender.mode == "jit" and contender.backend != REFERENCE:
                counted = evidence(vae, group, clip)
                measured.dispatches[contender], measured.programs[contender] = counted
            runs[contender] = _noting_compilations(run, measured.again, contender)
            if (taken := call_bytes(contender, runs[contender])) is not None:
                measured.memory[contender] = taken
            elif measured.first[contender].stages["running"] < LONG_CALL:
                runs[contender]()
        except Exception as error:  # whatever a backend raises is its row's, and its test's
            measured.failures[contender] = error
            _free_memory()
    slow = {str(one): group.eager_rounds for one in runs if one.slow and group.eager_rounds < group.rounds}
    named = {str(contender): run for contender, run in runs.items()}
    patience = PATIENCE if group.rounds > 1 else 0.0  # of a single round nothing can be said, quiet or not
    measured.timings = time_in_turn(named, group.rounds, slow=slow, patience=patience)
    failures = measured.timings.failures
    measured.failures |= {one: failures[str(one)] for one in runs if str(one) in failures}
    _free_memory()
    return measured


def _noting_compilations(run: Run, counts: dict[Contender, int], contender: Contender) -> Run:
    """The same call; how many programs are compiled when it is first repeated goes into `counts`."""

    def repeated() -> None:
        if contender in counts:
            return run()
        with stages() as found:
            run()
        counts[contender] = compiled(found)
        return None

    return repeated


def _first_call(run: Run) -> FirstCall:
    with foreign_load() as foreign, stages() as found:
        start = time.perf_counter()
        run()
        seconds = time.perf_counter() - start
    by_stage = seconds_by_stage(found)
    running = max(0.0, seconds - sum(by_stage.values()))
    return FirstCall(seconds, by_stage | {"running": running}, compiled(found), foreign[0])


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# Values, as fields of records


def steady_values(measured: Measured, contender: Contender, rate: float | None = None) -> list[dict[str, Any]]:
    """Times, ratios and rates of a contender's warm call.

    Args:
        rate: FLOP/s that the device reaches; None measures it.
    """
    group, size = measured.group, measured.group.size
    if note := measured.note(contender):
        return [_absolute("time of a call", None, note=note)]
    wanted = min(ENOUGH, group.eager_rounds if contender.slow else group.rounds)
    seconds = median(measured.timings, str(contender), wanted)
    ours = contender.backend != REFERENCE
    values = [_absolute("time of a call", seconds)]
    if contender != PYTORCH:
        bar = SHOWN[OVER_PYTORCH]._replace(limit=group.limit(VS_REFERENCE, contender))
        values.append(vs_reference(measured, contender, OVER_PYTORCH, bar, 0.5, wanted))
    if ours:
        # From one process to the next this moves by 10 %: the gate's own measurement is the one that is judged.
        values.append(vs_reference(measured, contender, bar=SHOWN[GATED], wanted=wanted))
    if ours and contender.mode == "jit" and _timed(measured, COMPILED):
        bar = SHOWN[OVER_COMPILED]._replace(limit=group.limit(VS_COMPILED, contender))
        values.append(_ratio(measured, contender, COMPILED, OVER_COMPILED, bar, wanted))
    jitted = contender._replace(mode="jit")
    if contender.slow and _timed(measured, jitted):
        values.append(_ratio(measured, contender, jitted, OVER_JIT, SHOWN[OVER_JIT], wanted))
    flops = nominal_flops(group)
    rates = {"frames/s": size.frames, "megapixels/s": size.megapixels, "nominal FLOP/s": flops / 1e9}
    for metric, amount in rates.items():
        values.append(_absolute(metric, _rate(amount, seconds)))
    if group.dtype != "float64":
        share = _rate(100 * flops / (rate or max(peak(group.dtype).values())), seconds)
        values.append(_absolute("share of the peak", share))
    if contender in measured.memory:
        fields = {"metric": MEMORY, "kind": "absolute", "value": measured.memory[contender] / 1e9}
        values.append(fields | TIMES[MEMORY].fields)
    return values


def vs_reference(
    measured: Measured,
    contender: Contender,
    metric: str = GATED,
    bar: Bar = GATE[GATED],
    share: float = FASTEST,
    wanted: int = ENOUGH,
) -> dict[str, Any]:
    """A contender's time over PyTorch's. That of the fastest calls says whether it has become slower."""
    if not _timed(measured, PYTORCH):
        note = f"PyTorch: {measured.note(PYTORCH) or 'not timed'}"
        return {"metric": metric, "value": None, "kind": "ratio", "note": note} | bar.fields
    return _ratio(measured, contender, PYTORCH, metric, bar, wanted, share)


def first_call_values(measured: Measured, contender: Contender) -> tuple[list[dict[str, Any]], list[float]]:
    """Where the first call goes, and its seconds. It is taken once: when disturbed, it says nothing sure."""
    if contender not in measured.first:
        return [_absolute("first call, whole", None, note=measured.note(contender))], []
    first = measured.first[contender]
    quiet = first.foreign <= QUIET
    note = "" if quiet else f"other work took {100 * first.foreign:.0f} % of the cores: close it and run again"
    values = []
    for stage, seconds in {"whole": first.seconds, **first.stages}.items():
        bounds = (seconds, seconds) if quiet else (0.0, math.inf)
        estimate = Estimate(seconds, *bounds, 1, note)
        values.append(_absolute(f"first call, {stage}", estimate))
    return values, [first.seconds]


def program_values(measured: Measured, contender: Contender) -> dict[str, list[dict[str, Any]]]:
    """The exact costs of each program of a jitted call, by the program's name."""
    shared = {"kind": "exact", "of_compiler": True}
    return {
        name: [
            shared | {"metric": metric, "value": value} | COSTS[metric].fields
            for metric, value in costs.items()
            if metric != PRODUCTS_IN_FLOAT32 or measured.group.dtype == "bfloat16"
        ]
        for name, costs in measured.programs.get(contender, {}).items()
    }


def compilation_values(measured: Measured, contender: Contender) -> list[dict[str, Any]]:
    """How many programs a jitted call runs, and compiles when it is repeated."""
    counts = {}
    if contender in measured.dispatches:
        counts["programs run"] = measured.dispatches[contender]
    if contender in measured.again:
        counts[AGAIN] = measured.again[contender]
    return [{"kind": "exact", "metric": metric, "value": n} | COUNTS[metric].fields for metric, n in counts.items()]


def ratio_fields(found: Estimate, bar: Bar) -> dict[str, Any]:
    """A ratio's fields of a record."""
    return {"kind": "ratio"} | bar.fields | _fields(found)


def _timed(measured: Measured, contender: Contender) -> bool:
    return contender not in measured.failures and str(contender) in measured.timings.seconds


def _ratio(
    measured: Measured,
    contender: Contender,
    other: Contender,
    metric: str,
    bar: Bar,
    wanted: int,
    share: float = 0.5,
) -> dict[str, Any]:
    found = ratio(measured.timings, str(contender), str(other), wanted, share)
    return {"metric": metric} | ratio_fields(found, bar)


def _absolute(metric: str, found: Estimate | None, note: str = "") -> dict[str, Any]:
    shared = {"metric": metric, "kind": "absolute"} | TIMES[metric].fields
    if found is None:  # a call that fails where it did not before has got worse
        return shared | {"value": None, "tolerance": 1.0, "note": note}
    return shared | _fields(found)


def _fields(found: Estimate) -> dict[str, Any]:
    return {"value": found.value, "interval": found.interval, "runs": max(1, found.runs), "note": found.note}


def _rate(amount: float, seconds: Estimate) -> Estimate:
    """An amount per second."""
    low, high = (amount / bound if bound else math.inf for bound in (seconds.high, seconds.low))
    return Estimate(amount / seconds.value, low, high, seconds.runs, seconds.note)
