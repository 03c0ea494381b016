"""Cases as files: inputs for a port that runs elsewhere, and its outputs, which have to be of the same cases."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from twinvae.arrays import DTYPES
from twinvae.bench.clips import synthetic_clip
from twinvae.bench.models import Model
from twinvae.checkpoint import fingerprint, write_checkpoint
from twinvae.tiles import Operation

MANIFEST, INPUTS, OUTPUTS = "cases.json", "inputs.safetensors", ("outputs.safetensors", "outputs.npz")
# Clips, frames, height and width of what is encoded (in pixels) and decoded (in latent cells): remainders of frame
# batches, sides that are no multiples of 8, two clips.
SHAPES: dict[Operation, list[tuple[int, int, int, int]]] = {
    "encode": [(1, 1, 16, 24), (1, 2, 16, 24), (1, 8, 16, 24), (1, 9, 16, 24), (1, 17, 16, 24), (1, 9, 17, 26),
               (2, 9, 16, 24)],
    "decode": [(1, 1, 2, 3), (1, 2, 2, 3), (1, 3, 2, 3), (1, 5, 2, 3), (1, 7, 2, 3), (2, 3, 2, 3)],
}  # fmt: skip


class Case(NamedTuple):
    """A clip, channel-last, and what is to be done with it."""

    name: str
    operation: Operation
    clip: np.ndarray


def cases_of(model: Model, dtype: str, seed: int) -> list[Case]:
    """The cases of a model: frames of the synthetic clip, and noise for latents."""
    found = []
    for operation, shapes in SHAPES.items():
        for items, frames, height, width in shapes:
            if operation == "encode":
                clip = synthetic_clip(frames, height, width, seed)
                clip = np.concatenate([clip, clip[:, ::-1]])[:items]
            else:
                size = (items, frames, height, width, model.config.latent_channels)
                clip = np.random.default_rng([frames, items, seed]).standard_normal(size)
            name = f"{operation}-{items}x{frames}x{height}x{width}"
            found.append(Case(name, operation, np.ascontiguousarray(clip.astype(DTYPES[dtype]))))
    return found


def digest(cases: list[Case], checkpoint: str) -> str:
    """What outputs have to name: it differs where any input does, or the checkpoint."""
    found = hashlib.sha256(checkpoint.encode())
    for case in cases:
        found.update(f"{case.name}{case.clip.dtype}{case.clip.shape}".encode() + case.clip.tobytes())
    return found.hexdigest()[:16]


def export(folder: Path, model: Model, dtype: str, seed: int) -> Path:
    """Write the cases of a model into a folder: inputs, its checkpoint, and what is to be done; return the manifest.

    Raises:
        OSError: the folder cannot be written, or is a file.
    """
    tensors, cases = model.tensors(), cases_of(model, dtype, seed)
    write_checkpoint(folder / "checkpoint", model.config, tensors)
    named = digest(cases, fingerprint(tensors))
    save_file({case.name: case.clip for case in cases}, folder / INPUTS, metadata={"digest": named})
    manifest = {
        "digest": named, "dtype": dtype, "seed": seed, "source": model.source, "label": model.label,
        "layout": "[batch, time, height, width, channel], videos in [-1, 1], latents as they leave the encoder",
        "asked": f"{OUTPUTS[0]} or {OUTPUTS[1]}, with an array of each name: of encode-* the moments (mean, then "
        "log-variance, along the channels) or the mean alone, of decode-* the video; and the digest, as metadata "
        "'digest' of safetensors or as an array 'digest' of npz",
        "cases": [{"name": case.name, "operation": case.operation, "shape": case.clip.shape} for case in cases],
    }  # fmt: skip
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest, indent=2) + "\n")
    return path


class Outputs(NamedTuple):
    """Outputs that were made elsewhere, and the cases that they are of."""

    label: str
    model: Model
    dtype: str
    cases: list[Case]
    arrays: Mapping[str, np.ndarray]


def read_outputs(folder: Path) -> Outputs:
    """Read outputs that lie beside the manifest of their cases.

    Raises:
        FileNotFoundError: the manifest or the outputs are missing.
        ValueError: they are of other cases, or cannot be read; the message says which and what to do.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; put outputs beside the {MANIFEST} that `export-cases` wrote")
    try:
        manifest = json.loads(path.read_text())
        source = manifest["source"]
        made = (
            Model.of_checkpoint(**source) if "weights" in source else Model.of_preset(source["preset"], source["seed"])
        )
        dtype, seed, stated = manifest["dtype"], manifest["seed"], manifest["digest"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no manifest of `export-cases` ({type(error).__name__}: {error})") from None
    cases = cases_of(made, dtype, seed)
    expected = digest(cases, fingerprint(made.tensors()))
    if stated != expected:
        raise ValueError(
            f"{path} is of the cases {stated}, and this version makes {expected}: export them again, and run the port "
            "on those"
        )
    files = [folder / name for name in OUTPUTS if (folder / name).is_file()]
    if len(files) != 1:
        raise FileNotFoundError(f"{folder}: found {len(files)} of {' and '.join(OUTPUTS)}, expected one")
    arrays, named = _read(files[0])
    if named != expected:
        raise ValueError(
            f"{files[0]} names the digest {named or 'none'}, and the cases beside it are {expected}: write the digest "
            "of the inputs that the outputs were made of"
        )
    return Outputs(folder.resolve().name, made, dtype, cases, arrays)


def _read(path: Path) -> tuple[dict[str, np.ndarray], str]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                arrays: dict[str, Any] = dict(stored)
            return arrays, str(arrays.pop("digest", ""))
        with safe_open(path, framework="np") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, (file.metadata() or {}).get("digest", "")
    except (SafetensorError, ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {error}): write it again") from None
