"""Checkpoints: diffusers folders, read into plain arrays and written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from twinvae.config import VAEConfig
from twinvae.tensors import FLOATS, KINDS, Described, Tensors, check_tensors, some, tensor_shapes

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
INDEX_FILE = f"{WEIGHTS_FILE}.index.json"
COMPILED_PREFIX = "_orig_mod."  # put before every name by torch.compile


# Reading


def read_checkpoint(source: str | Path, subfolder: str | None = None) -> tuple[VAEConfig, Tensors]:
    """Read a diffusers VAE: config.json, and safetensors in one file or in shards with an index. Never pickle.

    Args:
        source: a local folder, or a hub id such as "THUDM/CogVideoX-2b".
        subfolder: the VAE's folder inside it, such as "vae".
    Returns:
        The config, and the tensors by diffusers' name in diffusers' order, in the dtypes of the files.
    Raises:
        FileNotFoundError: no such folder, or no config or weights in it.
        OSError: a file that cannot be read or is damaged, or a hub that cannot be reached.
        ValueError: a config of another class, or tensors that do not fit it.
    """
    folder = local_folder(source, subfolder)
    config = VAEConfig.from_file(folder / CONFIG_FILE)
    tensors = stored_tensors(folder)
    _check(config, tensors)
    return config, {name: tensors[name].read() for name in tensor_shapes(config)}


class StoredTensor:
    """A tensor in a safetensors file, of which only what is asked for is read."""

    def __init__(self, file: Any, name: str, path: Path) -> None:
        kind = file.get_slice(name).get_dtype()
        if kind not in FLOATS:
            raise ValueError(f"{name} in {path} is {kind}, expected one of {KINDS}")
        self.dtype = FLOATS[kind]
        self.shape: tuple[int, ...] = tuple(file.get_slice(name).get_shape())
        self._file, self._name = file, name

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        return self._file.get_slice(self._name)[index]

    def read(self) -> np.ndarray:
        return self._file.get_tensor(self._name)


def stored_tensors(folder: Path, weights_file: str = WEIGHTS_FILE) -> dict[str, StoredTensor]:
    """The tensors of a local folder by name, in one safetensors file or in shards with an index; none is read yet.

    Args:
        weights_file: what the one file is called; the index of shards is called after it.
    Raises:
        FileNotFoundError: no weights in the folder.
        OSError: a file that is damaged.
        ValueError: a tensor that is not of floats, shards that their index contradicts, or several variants.
    """
    source = _weights_file(folder, weights_file)
    stored = _open_file(source) if source.suffix == ".safetensors" else _open_shards(source)
    return _without_prefix(stored, source)


def _check(config: VAEConfig, tensors: Mapping[str, Described]) -> None:
    advice = f"Use the {CONFIG_FILE} that was saved with these weights"
    check_tensors(tensor_shapes(config), tensors, "their config", advice)


def local_folder(source: str | Path, subfolder: str | None = None) -> Path:
    """The folder that holds config and weights, fetched from the hub where it is none of this machine's.

    Raises:
        FileNotFoundError: no such folder.
        OSError: a hub that cannot be reached.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        folder = _downloaded(source, subfolder)
    if subfolder is not None:
        folder = folder / subfolder
        if not folder.is_dir():
            raise FileNotFoundError(f"{source} has no subfolder {subfolder!r}: name the folder that holds the VAE")
    return folder


def _downloaded(source: str | Path, subfolder: str | None) -> Path:
    """Fetch config and safetensors of a hub id into the hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    missing = f"{source} is neither a folder nor a hub id like 'owner/name': check the path of the weights"
    try:
        validate_repo_id(str(source))
    except HFValidationError:
        raise FileNotFoundError(missing) from None
    if isinstance(source, Path) or Path(source).exists():
        raise FileNotFoundError(missing)
    files = (CONFIG_FILE, "*.safetensors", "*.safetensors.index*.json")
    inside = f"{subfolder}/" if subfolder else ""
    try:
        return Path(snapshot_download(source, allow_patterns=[inside + name for name in files]))
    except OSError as error:  # every failure of the hub and of the network is one
        raise OSError(
            f"no folder {source!r} here, and fetching it from the hub failed ({_first_line(error)}): check the name, "
            "or download the folder on a machine that can and pass its path as `weights`"
        ) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"


def _weights_file(folder: Path, weights_file: str) -> Path:
    """What diffusers reads: the index of shards, else the file; where neither is there, the only variant of either."""
    index = f"{weights_file}.index.json"
    for name in (index, weights_file):
        if (folder / name).is_file():
            return folder / name
    variants = (f"{weights_file}.index*.json", f"{Path(weights_file).stem}*.safetensors")
    candidates = (path for pattern in variants for path in folder.glob(pattern))
    found = sorted(path for path in candidates if path.is_file() and "-of-" not in path.name)  # shards do not count
    if not found:
        raise FileNotFoundError(_no_weights(folder, weights_file))
    if len(found) > 1:
        raise ValueError(
            f"{folder} holds several variants and neither {index} nor {weights_file}: "
            f"{some([path.name for path in found])}. Keep the wanted one alone in a folder"
        )
    return found[0]


def variant_of(folder: Path) -> str | None:
    """What diffusers' `from_pretrained` has to be told of a folder: the variant that alone is there, such as "fp16"."""
    name = _weights_file(folder, WEIGHTS_FILE).name
    stem = Path(WEIGHTS_FILE).stem
    found = re.fullmatch(rf"{stem}\.(?:safetensors\.index\.)?(.+)\.(?:safetensors|json)", name)
    return found[1] if found and found[1] != "safetensors.index" else None


def _no_weights(folder: Path, weights_file: str) -> str:
    present = sorted(path.name for path in folder.iterdir())
    pickled = [name for name in present if name.endswith((".bin", ".pt", ".pth", ".ckpt"))]
    if pickled:
        return (
            f"{folder} holds only pickled weights ({some(pickled)}), which are not read because unpickling runs code: "
            f"expected {weights_file}; convert them where you trust them, with save_pretrained(safe_serialization=True)"
        )
    return (
        f"{folder} holds no weights: expected {weights_file}, or {weights_file}.index.json with its shards, "
        f"found {some(present) or 'an empty folder'}"
    )


def _open_file(path: Path) -> dict[str, StoredTensor]:
    try:
        file = safe_open(path, framework="np").__enter__()  # which stays open as long as its tensors are wanted
        return {name: StoredTensor(file, name, path) for name in file.keys()}  # noqa: SIM118, no mapping
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} not found") from None
    except SafetensorError as error:
        raise OSError(f"{path} is no whole safetensors file ({error}): copy or download it again") from error


def _open_shards(index: Path) -> dict[str, StoredTensor]:
    try:
        placed = json.loads(index.read_text())["weight_map"]
        shards = sorted(set(placed.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OSError(
            f'{index} is no index of shards ({_first_line(error)}): expected {{"weight_map": {{tensor: file}}}}'
        ) from error
    tensors: dict[str, StoredTensor] = {}
    for shard in shards:
        if Path(shard).name != shard:
            raise ValueError(f"{index.name} places tensors in {shard!r}: expected a file name beside it, no path")
        if not (index.parent / shard).is_file():
            raise FileNotFoundError(f"{index.name} names the shard {shard}, which is not in {index.parent}: fetch it")
        held = _open_file(index.parent / shard)
        promised = {name for name, file in placed.items() if file == shard}
        if promised != set(held):
            absent, unlisted = sorted(promised - set(held)), sorted(set(held) - promised)
            raise ValueError(
                f"{shard} and {index.name} disagree: absent from the shard {some(absent) or 'nothing'}, "
                f"not in the index {some(unlisted) or 'nothing'}. Fetch both again from the same source"
            )
        tensors.update(held)
    return tensors


def _without_prefix(stored: dict[str, StoredTensor], source: Path) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        plain = name.replace(COMPILED_PREFIX, "")
        if plain in tensors:
            raise ValueError(
                f"{source} holds {plain} twice, with and without {COMPILED_PREFIX!r}: save the model once, uncompiled"
            )
        tensors[plain] = tensor
    return tensors


# Writing


def write_checkpoint(folder: str | Path, config: VAEConfig, tensors: Mapping[str, np.ndarray]) -> None:
    """Write config.json and one safetensors file that diffusers' `from_pretrained` reads back bit for bit.

    Each file is complete before it takes its name: an error leaves what was there before.

    Raises:
        ValueError: tensors that do not fit the config.
        OSError: a folder that cannot be written, or one that holds a sharded checkpoint, which would be read instead.
    """
    _check(config, tensors)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise FileExistsError(f"{folder} is a file: name a folder to write the checkpoint to") from None
    if (folder / INDEX_FILE).exists():
        raise FileExistsError(
            f"{folder} holds a sharded checkpoint ({INDEX_FILE}), which diffusers would read instead of "
            f"{WEIGHTS_FILE}: name an empty folder"
        )
    # safetensors writes the memory behind an array: it has to lie in the order of the shape.
    dense = {name: np.ascontiguousarray(tensors[name]) for name in tensor_shapes(config)}
    content = json.dumps(config.to_dict(), indent=2) + "\n"
    with contextlib.ExitStack() as cleanup:
        weights = _temporary(folder, cleanup)
        save_file(dense, weights, metadata={"format": "pt"})
        described = _temporary(folder, cleanup)
        described.write_text(content)
        weights.chmod(described.stat().st_mode)  # safetensors makes files that nobody else may read
        os.replace(weights, folder / WEIGHTS_FILE)
        os.replace(described, folder / CONFIG_FILE)


def _temporary(folder: Path, cleanup: contextlib.ExitStack) -> Path:
    """A new file in `folder`, gone at the end unless it has been renamed."""
    path = folder / f".partial-{uuid4().hex}"
    path.touch(exist_ok=False)
    cleanup.callback(path.unlink, missing_ok=True)
    return path


# Identity

LARGE = 65_536  # bytes, from which on a checksum stands for a tensor's content: at 3 GB/s, four times as fast


def fingerprint(tensors: Mapping[str, np.ndarray]) -> str:
    """A short hex name for a set of tensors: names, shapes, dtypes, and every byte."""
    digest = hashlib.blake2b(digest_size=8)
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}{tensor.shape}{tensor.dtype}".encode())
        content = tensor.reshape(-1).view(np.uint8).data
        digest.update(content if content.nbytes <= LARGE else zlib.crc32(content).to_bytes(4, "big"))
    return digest.hexdigest()
