"""Who is put through a diagnosis: a backend that is installed, a port's file, or outputs that were made elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import numpy as np

from twinvae.bench.cases import Outputs
from twinvae.bench.diagnosis.diagnose import SECONDS, Diagnosis, diagnose
from twinvae.bench.diagnosis.experiments import CASES, Case, Subject, subject_of
from twinvae.bench.diagnosis.saved import NAME as SAVED
from twinvae.bench.diagnosis.saved import of_saved
from twinvae.bench.diagnosis.wrapper import NAME as WRAPPER
from twinvae.bench.diagnosis.wrapper import of_wrapper
from twinvae.bench.effort import little_effort
from twinvae.bench.findings import Finding
from twinvae.bench.models import Model
from twinvae.bench.places import CHECKOUT
from twinvae.bench.ports import taken_by
from twinvae.checkpoint import fingerprint
from twinvae.config import VAEConfig
from twinvae.port import NotTaken, PortError, is_port, label_of
from twinvae.registry import backend_module, capabilities_of

BESIDE = (WRAPPER, SAVED)


def diagnose_backend(
    backend: str,
    model: Model,
    *,
    named: bool = False,
    cases: Sequence[Case] = CASES,
    beside: Collection[str] = BESIDE,
    seed: int = 0,
    seconds: float = SECONDS,
    say: Callable[[Finding], None] = lambda finding: None,
) -> Diagnosis:
    """Load a backend in its most precise dtype, and find out what it does another way than diffusers.

    Args:
        beside: of BESIDE, what else to look at.
        model: what it is built of; a port that builds nothing is of its own, unless `named` says that it is of this.
    Raises:
        ValueError, OSError: it cannot be loaded.
    """
    module, dtype, jit = backend_module(backend), "float64", True
    if is_port(backend):
        taken = taken_by(backend, [model], named, ("float64", "float32", "bfloat16"), None, seed)
        model, dtype, jit = taken.models[0], taken.dtypes[0], taken.modes == ("jit",)

    def build(config: VAEConfig, tensors: Mapping[str, np.ndarray]) -> Any:
        return module.load(config, dict(tensors), dtype=dtype, jit=jit, checkpoint=fingerprint(dict(tensors)))

    with little_effort():
        tensors = model.tensors()
        vae = build(model.config, tensors)
        has = capabilities_of(backend) - ({"config", "saves"} if model.is_large else set())
        builds = build if "config" in has else None
        subject = subject_of(vae, model.config, tensors, builds, dtype)
        command = f"{'python -m ' if CHECKOUT else ''}twinvae diagnose {backend}"
        name = label_of(backend)
        found = diagnose(subject, name, cases=cases, seed=seed, seconds=seconds, say=say, command=command)
        began, more = time.monotonic(), []
        every = {WRAPPER: ("pipeline", lambda: of_wrapper(vae, seed)), SAVED: ("saves", lambda: of_saved(vae, tensors))}
        looks = {what: look for what, (needs, look) in every.items() if what in beside and needs in has}
        for what, look in looks.items():
            with suppress(PortError, NotTaken):  # of its own encode or decode, which is found above
                for finding in look():
                    more.append(finding.model_copy(update={"backend": name, "command": f"{command} --case '{what}'"}))
                    say(more[-1])
        first, whole = found.seconds
        spent = time.monotonic() - began
        return found._replace(
            findings=(*found.findings, *more), tried=found.tried + len(looks),
            seconds=(first if found.findings else first + spent, whole + spent),
        )  # fmt: skip


def diagnose_outputs(
    outputs: Outputs, *, seconds: float = SECONDS, say: Callable[[Finding], None] = lambda finding: None
) -> Diagnosis:
    """Find out the same of outputs that were made elsewhere: there are no experiments but those."""
    clips = {case.name: case.clip for case in outputs.cases}
    channels = {"encode": 2 * outputs.model.config.latent_channels, "decode": outputs.model.config.out_channels}

    class Exported(Case):
        def clip(self, config: VAEConfig, seed: int) -> np.ndarray:
            return clips[self.name]

    given = [case for case in outputs.cases if case.name in outputs.arrays]
    cases = [
        Exported(case.name, case.operation, case.clip.shape[:4]) for case in given
        if outputs.arrays[case.name].shape[-1:] == (channels[case.operation],)  # of a mean alone nothing is known
    ]  # fmt: skip

    def answer(operation: str) -> Callable[[np.ndarray], np.ndarray]:
        return lambda clip: outputs.arrays[f"{operation}-{'x'.join(map(str, clip.shape[:4]))}"]

    elsewhere = SimpleNamespace(encode=answer("encode"), decode=answer("decode"))
    subject = Subject(elsewhere, outputs.model.config, outputs.model.tensors(), dtype=outputs.dtype)
    return diagnose(subject, outputs.label, cases=cases, seconds=seconds, say=say)
