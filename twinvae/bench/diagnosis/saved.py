"""A saved folder, read tensor by tensor: what of it is not as diffusers' class saves the same model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors import safe_open

from twinvae import arrays
from twinvae.bench.findings import Finding, many
from twinvae.bench.verdicts import number
from twinvae.checkpoint import CONFIG_FILE, stored_tensors
from twinvae.config import VAEConfig
from twinvae.interface import VideoVAE
from twinvae.port import PortError
from twinvae.tensors import some

NAME = "saved folder"
COARSER = ("float32", "float16", "bfloat16")


def of_saved(vae: VideoVAE, tensors: Mapping[str, np.ndarray]) -> list[Finding]:
    """What is wrong with what a VAE saves, each cause once.

    Args:
        tensors: what it was built of.
    """
    with TemporaryDirectory(prefix="twinvae-") as name:
        try:
            vae.save_pretrained(name)
        except PortError as error:
            return [_finding("save_pretrained", f"{error}.")]
        given = {name: tensor.astype(arrays.DTYPES[vae.dtype]) for name, tensor in tensors.items()}
        return [_finding(cause, words) for cause, words in faults(Path(name), vae.config, given).items()]


def _finding(cause: str, words: str) -> Finding:
    return Finding(kind="signature", cause=f"{NAME}: {cause}", headline=words, about="checkpoint")


def faults(folder: Path, config: VAEConfig, given: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Sentences by cause; none of a folder that diffusers reads back bit for bit."""
    found = {}
    try:
        read = VAEConfig.from_file(folder / CONFIG_FILE)
        differing = [f"{n} is {getattr(read, n)!r} for {v!r}" for n, v in config if getattr(read, n) != v]
        if differing:
            found["config"] = f"{CONFIG_FILE} says otherwise than the model: {some(differing)}."
    except (OSError, ValueError) as error:
        found["config"] = f"The saved {CONFIG_FILE} is none of diffusers': {error}."
    try:
        stored = {name: tensor.read() for name, tensor in stored_tensors(folder).items()}
    except (OSError, ValueError) as error:
        return found | {"weights": f"The saved weights are none that diffusers reads: {error}."}
    if others := [name for name in stored if name not in given]:
        lacking = _few([name for name in given if name not in stored]) or "none"
        found["names"] = f"{many(len(others), 'tensor')} saved by other names, {_few(others)}; missing: {lacking}."
    elif lacking := [name for name in given if name not in stored]:
        found["names"] = f"{many(len(lacking), 'tensor')} of {len(given)} not saved: {_few(lacking)}."
    groups: dict[tuple[str, str], list[str]] = {}
    for name in (name for name in given if name in stored):
        for cause, words in _of_tensor(stored[name], given[name]):
            groups.setdefault((cause, words), []).append(name)
    for (cause, words), names in groups.items():
        found[f"{cause}: {words}"] = f"{many(len(names), 'tensor')} of {len(given)} saved {words}: {_few(names)}."
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="np") as opened:
            if (opened.metadata() or {}).get("format") != "pt":
                found["metadata"] = f"{file.name} has no metadata format=pt, which readers of diffusers' files look at."
    return found


def _few(names: Sequence[str]) -> str:
    """The first of some tensors, and how many more there are."""
    return ", ".join(names) if len(names) < 3 else f"{names[0]} and {len(names) - 1} more"


def _of_tensor(found: np.ndarray, given: np.ndarray) -> list[tuple[str, str]]:
    """How a saved tensor differs: by the order of its axes, by its dtype, and by its values."""
    differs = []
    if found.dtype != given.dtype:
        differs.append(("dtype", f"in {found.dtype}, where the model computes in {given.dtype}"))
        coarser = min(found.dtype, given.dtype, key=lambda dtype: dtype.itemsize)
        found, given = found.astype(coarser), given.astype(coarser)
    for axes in itertools.permutations(range(found.ndim)):  # the right order first
        turned = found.transpose(axes)
        if turned.shape != given.shape:
            continue
        for dtype in (given.dtype.name, *COARSER):
            if np.array_equal(turned, given.astype(_dtype(dtype)).astype(given.dtype)):
                if dtype != given.dtype.name:
                    differs.append(("rounding", f"rounded to {dtype}"))
                if axes != tuple(range(found.ndim)):
                    back = ", ".join(map(str, np.argsort(axes)))
                    differs.append(("axes", f"with the axes in the order ({back}) of diffusers'"))
                return differs
    if found.shape != given.shape:
        return [*differs, ("shape", f"in another shape, {found.shape} for {given.shape}")]
    off = np.abs(found.astype(np.float64) - given.astype(np.float64)).max()
    return [*differs, ("values", f"with other values, off by up to {number(float(off))}")]


def _dtype(name: str) -> np.dtype:
    return arrays.DTYPES[name] if name in arrays.DTYPES else np.dtype(name)
