"""Programs of a decoder on meshes of a chip, lowered for it and put to its compiler, each once per run."""

from __future__ import annotations

import time
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import SingleDeviceSharding

import twinvae
from suites.scaling.cases import BACKEND, DTYPE, FORM, LATENTS, ONE, PRESET, Case
from twinvae.bench.aot.compilers import compiler_version, devices_of, platform_of
from twinvae.bench.aot.hlo import Compiled
from twinvae.bench.aot.programs import Answer, Compiler, Store
from twinvae.bench.aot.tpu_compiler import Outcome, compiled_program
from twinvae.bench.collectives import collectives
from twinvae.jax.chips import CHIPS
from twinvae.jax.compiling import compiler_options
from twinvae.jax.memory import tree_bytes
from twinvae.registry import backend_module
from twinvae.tensors import tensor_shapes

BYTES = " bytes"  # after a kind of collective: what a device is sent


class Programs:
    """Answers for the programs of one chip.

    Args:
        large: whether what has changed may be compiled.
    """

    def __init__(self, chip: str, baseline_dir: Path, large: bool) -> None:
        self.chip, self.large = chip, large
        self.store = Store(baseline_dir / platform_of(chip) / "scaling.jsonl")
        self._answers: dict[Case, Answer] = {}

    def ask(self, case: Case) -> Answer:
        if case not in self._answers:
            found, target = devices_of(self.chip, case.split.devices)
            kind = CHIPS[self.chip].kind
            compiler = Compiler(
                self.store, target, compiler_version(self.chip), self.large, partial(compiled, self.chip),
                compiler_options(kind),
            )  # fmt: skip
            self._answers[case] = compiler.ask(str(case), lowered(case, found))
        return self._answers[case]


@cache
def decoder() -> twinvae.VideoVAE:
    """The full architecture; of its weights only shapes matter here."""
    config = twinvae.PRESETS[PRESET]
    nothing = {name: np.broadcast_to(np.zeros((), np.float32), shape) for name, shape in tensor_shapes(config).items()}
    return backend_module(BACKEND).load(config, nothing, dtype=DTYPE, jit=True, checkpoint="")


def lowered(case: Case, devices: tuple[jax.Device, ...]) -> jax.stages.Lowered:
    """A case's program for these devices."""
    if case.split == ONE:
        vae, sharding = decoder(), SingleDeviceSharding(devices[0])
    else:
        names = case.split._asdict()
        vae, sharding = decoder().on(twinvae.make_mesh(**names, devices=devices[: case.split.devices])), None
    group = vae.schedule("decode", LATENTS[1])[0 if case.first else 1]
    shape = LATENTS[0], group.stop - group.start, *LATENTS[2:]
    return vae.lower_step("decode", shape, sharding, first=case.first, form=FORM)


def compiled(chip: str, lowered: jax.stages.Lowered) -> Outcome:
    """What a compiler says of a program, with the time of processors that it takes."""
    start = time.process_time()
    program, outcome = compiled_program(lowered)
    return counted(chip, outcome._replace(seconds=time.process_time() - start), program.as_text())


def counted(chip: str, outcome: Outcome, text: str) -> Outcome:
    """What stands in a program's text: loops count as often as they run, and collectives with what they give."""
    counts = {}
    for kind, sent in sorted(collectives(text).items()):
        counts |= {kind: sent.count, kind + BYTES: sent.bytes}
    read = Compiled(text)
    return outcome._replace(
        fits=outcome.peak_bytes <= CHIPS[chip].usable_bytes, counts=counts, flops=read.flops(),
        bytes_accessed=read.bytes_accessed(),
    )  # fmt: skip


@cache
def halo_bytes() -> int:
    """Of all causal convolutions of a device that has all rows: what the conv cache of one device holds."""
    vae = decoder()
    batch = jax.ShapeDtypeStruct((*LATENTS[:1], vae.frame_batch_size("decode"), *LATENTS[2:]), DTYPE)
    _, cache = jax.eval_shape(lambda params, x: vae.step("decode", params, x, None), vae.params, batch)
    return tree_bytes(cache)
