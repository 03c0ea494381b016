"""A backend put through a diagnosis: installed, or a port's file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from twinvae.bench.diagnosis.diagnose import SECONDS, Diagnosis, diagnose
from twinvae.bench.diagnosis.experiments import CASES, Case, subject_of
from twinvae.bench.effort import little_effort
from twinvae.bench.findings import Finding
from twinvae.bench.models import Model
from twinvae.bench.places import CHECKOUT
from twinvae.bench.ports import taken_by
from twinvae.checkpoint import fingerprint
from twinvae.config import VAEConfig
from twinvae.port import is_port, label_of
from twinvae.registry import backend_module, capabilities_of


def diagnose_backend(
    backend: str,
    model: Model,
    *,
    named: bool = False,
    cases: Sequence[Case] = CASES,
    seed: int = 0,
    seconds: float = SECONDS,
    say: Callable[[Finding], None] = lambda finding: None,
) -> Diagnosis:
    """Load a backend in its most precise dtype, and find out what it does another way than diffusers.

    Args:
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
        builds = build if "config" in capabilities_of(backend) and not model.is_large else None
        subject = subject_of(vae, model.config, tensors, builds, dtype)
        command = f"{'python -m ' if CHECKOUT else ''}twinvae diagnose {backend}"
        return diagnose(subject, label_of(backend), cases=cases, seed=seed, seconds=seconds, say=say, command=command)
