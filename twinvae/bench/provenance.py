"""Provenance: which versions, device, commit and input the numbers of a run come from."""

from __future__ import annotations

import hashlib
import os
import platform as host
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import jax
import psutil

from twinvae.bench.aot.libtpu import CHIPS, chip_of
from twinvae.bench.records import Run, Selection

PACKAGES = ("jax", "jaxlib", "flax", "torch", "torchax", "diffusers", "numpy")
# The vendor's device names, where they are not the names that people use.
TPU_NAMES = {"TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v6 lite": "v6e", "TPU7x": "7x"}


def collect(
    suite: str,
    platform: str,
    *,
    seed: int,
    weights: str,
    clip: str,
    selection: Selection,
    options: Sequence[str] = (),
    nan_input: bool = False,
    storage: str = "",
) -> Run:
    """Describe this run.

    Args:
        platform: as from `detect_platform`.
        weights, clip: labels that stay the same when the same input is used again.
        options: the suite options that were given on the command line, to run a case again.
    """
    processor, chip = _processor(), chip_of(platform)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    device = processor if jax.default_backend() == "cpu" else jax.devices()[0].device_kind
    if chip:
        device = f"no TPU: its compiler for {CHIPS[chip].topology}"
    memory = round(psutil.virtual_memory().total / 2**30)
    traits = f"{processor}|{_generation()}|{cores}|{memory}|{device}|{jax.device_count()}"
    return Run(
        suite=suite,
        platform=platform,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit(),
        versions=_versions((*PACKAGES, "libtpu") if chip else PACKAGES),
        device=device,
        cores=cores,
        machine=hashlib.sha256(traits.encode()).hexdigest()[:12],
        seed=seed,
        weights=weights,
        clip=clip,
        command=(Path(sys.argv[0]).name, *sys.argv[1:]),
        options=tuple(options),
        selection=selection,
        nan_input=nan_input,
        storage=storage,
    )


def detect_platform() -> str:
    """The name of the platform that JAX computes on: "cpu", "gpu-h200", "tpu-v6e" and the like."""
    backend = jax.default_backend()
    return "cpu" if backend == "cpu" else platform_name(backend, jax.devices()[0].device_kind)


def platform_name(backend: str, device_kind: str) -> str:
    """Short name of an accelerator: "gpu-h100" for "NVIDIA H100 80GB HBM3", "tpu-v6e" for "TPU v6 lite"."""
    name = TPU_NAMES.get(device_kind, device_kind).lower()
    name = re.sub(r"\b(nvidia|amd|tpu|geforce|tesla|sxm\d*|pcie|hbm\w*|\d+gb)\b", "", name)
    return f"{backend}-{re.sub(r'[^a-z0-9]+', '-', name).strip('-')}"


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {"python": host.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        match = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if match:
            return match[1]
    return host.processor() or host.machine()


def _generation() -> str:
    """Which processor of its name this is: clouds give processors of several generations one name."""
    cpuinfo = Path("/proc/cpuinfo")
    fields = ("cpu family", "model", "stepping", "cache size")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    found = (re.search(rf"^{field}\s*:\s*(.+)$", text, re.MULTILINE) for field in fields)
    return "/".join(match[1] for match in found if match)


def commit() -> str:
    """The commit of the checkout, with "+changes" where sources differ; what reports write does not count."""

    def git(*arguments: str) -> str:
        root = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        head = git("rev-parse", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--", ":/", ":(top,exclude)reports/*/*", ":(top,exclude)baselines")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+changes" if changed else "")
