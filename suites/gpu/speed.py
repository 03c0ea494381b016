"""Speed on a card: what fits is timed in turn, what does not in processes of its own, whose times meet in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from suites.gpu.steps import CONTENDERS, Step
from suites.speed.cases import COMPILED, PYTORCH, Contender, Group
from suites.speed.contenders import load, out_of_memory
from suites.speed.history import WARM
from suites.speed.measure import GATED, Measured, first_call_values, measure, steady_values
from suites.speed.peak import peak
from twinvae import VideoVAE
from twinvae.bench.options import Model
from twinvae.bench.timing import Timings

DTYPE = "bfloat16"
OVER = {"time over PyTorch": PYTORCH, GATED: PYTORCH, "time over torch.compile": COMPILED}
APART = "timed in processes of their own, not in turn"


def measure_speed(
    step: Step, model: Model, folder: Path, record: Callable[..., None],
    failure: Callable[[object, BaseException], None],
) -> None:  # fmt: skip
    """Time the contenders of a step, each operation in turn; earlier steps' times are what they can be held to."""
    shelf: dict[Contender, VideoVAE] = {}

    def vae_of(contender: Contender, group: Group) -> VideoVAE:
        key = PYTORCH if contender.backend == PYTORCH.backend else contender
        if key not in shelf:
            shelf[key] = load(key, group)
        return shelf[key]

    rate = best_rate(folder)
    for operation in step.operations:
        group = Group(model, operation, step.size, DTYPE, step.rounds, step.rounds)
        measured = measure(group, step.contenders, 0, vae_of, costs=False)
        before = joined(measured, folder / f"{group}.json")
        common = {"operation": operation, "shape": str(step.size), "dtype": DTYPE}
        for contender in dict.fromkeys((*step.contenders, *before)):
            fields = common | {"backend": contender.backend, "mode": contender.mode}
            for value in steady_values(measured, contender, rate):
                over = OVER.get(value["metric"])
                if is_new(contender, over, step.contenders, before):
                    apart = {"note": APART} if over and not {contender, over} <= {*step.contenders} else {}
                    record(**{"case": WARM} | fields | value | apart)
            if step.first and contender in measured.first:
                for value in first_call_values(measured, contender)[0]:
                    record(**{"case": "first call"} | fields | value)
            error = measured.failures.get(contender)
            if error is not None and not out_of_memory(error):
                failure(f"{contender} {operation}", error)


def is_new(contender: Contender, over: Contender | None, now: Sequence[Contender], before: Sequence[Contender]) -> bool:
    """Whether a value, or a ratio over another contender, could not be known before this step."""
    if over is None or over not in (*now, *before):
        return over is None and contender not in before
    return over in now or (contender in now and contender not in before)


def joined(measured: Measured, path: Path) -> list[Contender]:
    """Put the times of earlier processes beside these, keep these for later ones, and say whose were there before."""
    before = json.loads(path.read_text()) if path.exists() else {}
    timings = measured.timings
    mine = {name: [seconds, timings.foreign[name]] for name, seconds in timings.seconds.items()}
    every = {name: times for name, times in (before | mine).items() if times[0]}
    path.write_text(json.dumps(every))
    rounds = min((len(seconds) for seconds, _ in every.values()), default=0)
    measured.timings = Timings(
        {name: seconds[:rounds] for name, (seconds, _) in every.items()},
        {name: foreign[:rounds] for name, (_, foreign) in every.items()},
        timings.failures,
    )
    return [one for one in CONTENDERS if str(one) in before]


def best_rate(folder: Path) -> float:
    """The most FLOP/s that a product or a convolution reached, measured once in a run."""
    path = folder / "rate.json"
    if not path.exists():
        found = peak(DTYPE)
        print({name: f"{rate / 1e12:.1f} TFLOP/s" for name, rate in found.items()}, flush=True)
        path.write_text(json.dumps(max(found.values())))
    return json.loads(path.read_text())
