"""A process of its own: what card this is, or one step of the run, its records printed as they are measured."""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

import jax
import torch

from suites.gpu import card
from suites.gpu.diagnosis import diagnose
from suites.gpu.memory import measure_memory, plan_memory
from suites.gpu.parity import measure_parity
from suites.gpu.speed import measure_speed
from suites.gpu.steps import PRESET, REHEARSED_PRESET, SKIPPED, Step, chosen
from twinvae.bench import provenance
from twinvae.bench.aot.cuda import expect_no_gpu
from twinvae.bench.aot.libtpu import expect_no_tpu
from twinvae.bench.options import Model
from twinvae.bench.records import Failure, Record, Selection
from twinvae.config import preset_config

SUITES = ("parity", "speed", "memory")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m suites.gpu.step", description=__doc__)
    parser.add_argument("step", help="the name of a step, or facts")
    parser.add_argument("--folder", type=Path, required=True, help="what steps tell each other")
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true")
    given = parser.parse_args()
    expect_no_tpu()
    expect_no_gpu()
    name = REHEARSED_PRESET if given.rehearse else PRESET
    model = Model(name, preset_config(name), {"preset": name, "seed": 0})
    if given.step == "facts":
        return facts(model, given.rehearse)
    [step] = chosen(given.step, given.rehearse)
    told = Told(step, model)
    if step.kind == "parity":
        measure_parity(step, model, told.record)
    elif step.kind == "speed":
        measure_speed(step, model, given.folder, told.record, told.failure)
    elif step.kind == "plan":
        plan_memory(step, model, given.folder, told.record)
    elif step.kind == "memory":
        measure_memory(step, model, given.folder, told.record)
    else:
        diagnose(step, model, given.texts)
    return told.status


class Told:
    """Prints what a step finds out, a line each.

    Attributes:
        status: of the process: 1 where something failed that should not.
    """

    def __init__(self, step: Step, model: Model) -> None:
        self.step, self.model, self.status = step, model, 0

    def record(self, **fields: object) -> None:
        print(Record(**{"suite": self.step.suite, "preset": self.model.label} | fields).model_dump_json(), flush=True)

    def failure(self, what: object, error: BaseException) -> None:
        self.status = 1
        traceback.print_exception(error)
        rerun = f"nox -s gpu -- --only {self.step.name}"
        first = (str(error).splitlines() or [""])[0]
        print(
            Failure(test=f"gpu {self.step.name}, {what}", message=f"{type(error).__name__}: {first}"[:500], rerun=rerun,
                    case=self.step.name).model_dump_json(), flush=True,
        )  # fmt: skip


def facts(model: Model, rehearse: bool) -> int:
    """Say which card this is, and describe the run; or say why there will be none."""
    found = card.cards(card.nvidia_smi)
    if not rehearse and found and (why := card.refusal(found, card.nvidia_smi)):
        print(why, file=sys.stderr)
        return 2
    try:
        platform, says = jax.devices("cpu" if rehearse else "gpu")[0].platform, ""
    except RuntimeError as error:
        platform, says = jax.default_backend(), str(error)
    if not rehearse:
        why = card.missing(found, platform, says, torch.cuda.is_available(), torch.__version__)
        if why:
            print(why, file=sys.stderr)
            return SKIPPED
    here = found or ["no card: a rehearsal on the CPU"]
    print(*here, f"JAX {jax.__version__} on {jax.devices()}", f"PyTorch {torch.__version__}", sep="\n", flush=True)
    if len(jax.devices()) > 1 and not rehearse:
        print(f"{len(jax.devices())} cards: the first is measured; CUDA_VISIBLE_DEVICES chooses another")
    extra = {"driver": found[0].driver} if found else {}
    if torch.version.cuda:
        extra |= {"cuda of torch": torch.version.cuda, "cudnn of torch": str(torch.backends.cudnn.version())}
    for suite in SUITES:
        run = provenance.collect(
            suite, "gpu-rehearsed" if rehearse else provenance.detect_platform(), seed=0, weights="seeded",
            clip="synthetic", selection=Selection(presets=(model.label,)),
        )  # fmt: skip
        command = ("nox", "-s", "gpu")
        print(run.model_copy(update={"versions": run.versions | extra, "command": command}).model_dump_json())
    return 0


if __name__ == "__main__":
    sys.exit(main())
