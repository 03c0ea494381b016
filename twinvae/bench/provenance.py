"""Provenance: which versions, device, commit and input the numbers of a run come from."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform as host
import re
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import jax
import psutil

from twinvae.bench.aot.compilers import chip_of
from twinvae.bench.aot.cuda import PLUGIN
from twinvae.bench.places import CHECKOUT
from twinvae.bench.records import Run, Selection
from twinvae.jax.chips import CHIPS, platform_name
from twinvae.port import is_port, label_of, parsed
from twinvae.registry import installed

CHANGES, UNKNOWN = "+changes", "unknown"
COMMIT = "TWINVAE_COMMIT"  # the environment variable that gives it where git does not
# What a run writes, and what is accepted of it, is no source of the next.
WRITTEN = (":(top,exclude)reports/*/*", ":(top,exclude)baselines")
PACKAGES = ("jax", "jaxlib", "flax", "torch", "torchax", "diffusers", "numpy")
COMPILERS = {"tpu": "libtpu", "gpu": PLUGIN}


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
    given_commit: str | None = None,
    unjudged: Sequence[str] = (),
    ports: Sequence[str] = (),
    names: Sequence[str] | None = None,
) -> Run:
    """Describe this run.

    Args:
        platform: as from `detect_platform`.
        weights, clip: labels that stay the same when the same input is used again.
        options: the suite options that were given on the command line, to run a case again.
        given_commit: the commit, where git does not know it.
    """
    processor, chip = _processor(), chip_of(platform)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    device = processor if jax.default_backend() == "cpu" else jax.devices()[0].device_kind
    if chip:
        device = f"no {CHIPS[chip].kind.upper()}: its compiler for {CHIPS[chip].topology or CHIPS[chip].device_kind}"
    memory = round(psutil.virtual_memory().total / 2**30)
    ours = commit(given_commit)
    traits = f"{processor}|{_generation()}|{cores}|{memory}|{device}|{jax.device_count()}"
    return Run(
        suite=suite,
        platform=platform,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=ours,
        sources={label_of(name): source_of(name, ours) for name in names or selection.backends},
        versions=_versions((*PACKAGES, COMPILERS[CHIPS[chip].kind]) if chip else PACKAGES),
        device=device,
        cores=cores,
        machine=hashlib.sha256(traits.encode()).hexdigest()[:12],
        seed=seed,
        weights=weights,
        clip=clip,
        command=(program(Path(sys.argv[0])), *sys.argv[1:]),
        options=tuple(options),
        selection=selection,
        nan_input=nan_input,
        storage=storage,
        unjudged=tuple(unjudged),
        ports=tuple(ports),
    )


def detect_platform() -> str:
    """The name of the platform that JAX computes on: "cpu", "gpu-h200", "tpu-v6e" and the like."""
    backend = jax.default_backend()
    return "cpu" if backend == "cpu" else platform_name(backend, jax.devices()[0].device_kind)


def program(file: Path) -> str:
    """What was started, by its own name: of `python -m pytest` that is "pytest"."""
    return file.parent.name if file.name == "__main__.py" else file.name


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


def commit(given: str | None = None) -> str:
    """The commit of the checkout, with "+changes" where sources differ; what reports write does not count.

    Where git does not know it: the one given, or that of TWINVAE_COMMIT, else what an installed wheel is known by.
    """
    return git_commit() or given or os.environ.get(COMMIT) or wheel() or UNKNOWN


def wheel() -> str | None:
    """The version of an installed wheel and a digest of what it holds; None in a checkout or an exported tree."""
    try:
        record = None if CHECKOUT else distribution("twinvae").read_text("RECORD")
    except PackageNotFoundError:
        return None
    # Scripts and what pip notes beside the files differ from one environment to the next.
    held = [
        line for line in (record or "").splitlines() if not re.match(r"\.\.|/|[^,]*(__pycache__|\.dist-info)/", line)
    ]
    found = hashlib.sha256("\n".join(sorted(held)).encode()).hexdigest()[:12]
    return f"{version('twinvae')}-{found}" if held else None


def git_commit() -> str | None:
    """What git says of the checkout that this is part of; None where it is none, even inside another repository."""
    top = _git(CHECKOUT, "rev-parse", "--show-toplevel") if CHECKOUT else None
    return _head(CHECKOUT, *WRITTEN) if CHECKOUT and top and Path(top).resolve() == CHECKOUT else None


def source_of(backend: str, ours: str) -> str:
    """Which code a backend is: our own is of our commit, a port of its repository's, or of a digest of its sources."""
    if is_port(backend):
        place = parsed(backend).place
        file, top = (Path(place),) * 2 if place.endswith(".py") else map(_file_of, (place, place.partition(".")[0]))
    else:
        point = installed()[backend]
        if point.dist is not None and point.dist.name == "twinvae":
            return ours
        file, top = _file_of(point.module), _file_of(point.module.partition(".")[0])
    if _git(file.parent, "ls-files", "--", file.name):
        return _head(file.parent) or UNKNOWN
    folder = top.parent if top.name == "__init__.py" else None
    return digest(sorted(folder.rglob("*.py")) if folder else [file])


def _file_of(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the module {module}, which a backend names, has no file")
    return Path(spec.origin)


def digest(files: Sequence[Path]) -> str:
    """A short digest of files, names and contents."""
    found = hashlib.sha256()
    for file in files:
        found.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return f"sha256:{found.hexdigest()[:12]}"


def _head(folder: Path, *left_out: str) -> str | None:
    head, changed = (
        _git(folder, "rev-parse", "--short=12", "HEAD"),
        _git(folder, "status", "--porcelain", "--", ":/", *left_out),
    )
    return None if head is None or changed is None else head + CHANGES * bool(changed)


def _git(folder: Path, *arguments: str) -> str | None:
    """What git answers; None where there is no git, or no repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
