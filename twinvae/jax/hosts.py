"""Several hosts: a checkpoint is read by one of them, and sent to the others over the devices' own network."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import broadcast_one_to_all
from jax.sharding import Mesh

from twinvae.config import VAEConfig
from twinvae.tensors import Tensors

PIECE = 2**26  # bytes that are sent at once


def spans_hosts(mesh: Any) -> bool:
    """Whether a mesh has devices of several hosts."""
    return isinstance(mesh, Mesh) and len({device.process_index for device in mesh.devices.flat}) > 1


def read_once(read: Callable[[], tuple[VAEConfig, Tensors]]) -> tuple[VAEConfig, Tensors]:
    """A checkpoint, read by the first host that can, and sent to the others; every host has to call this.

    Raises:
        OSError: no host can read it; the message says what each found.
        ValueError: what the host that reads it says of it.
    """
    said = []
    for host in range(jax.process_count()):
        found = told = None
        if jax.process_index() == host:
            try:
                found = read()
                tensors = [(name, tensor.shape, tensor.dtype.name) for name, tensor in found[1].items()]
                told = {"config": found[0].to_dict(), "tensors": tensors}
            except (OSError, ValueError) as error:
                told = {"error": str(error), "other": isinstance(error, ValueError)}
        told = json.loads(_sent(json.dumps(told).encode(), host))
        if "config" in told:
            return _received(told, found, host)
        said.append(f"host {host}: {told['error']}")
        if told["other"]:
            raise ValueError(said[-1])
    raise OSError(f"no host can read this checkpoint, and one that can is enough. {'; '.join(said)}")


def _received(told: dict[str, Any], found: tuple[VAEConfig, Tensors] | None, host: int) -> tuple[VAEConfig, Tensors]:
    """The tensors that were told of, on all hosts."""
    sizes = [math.prod(shape) * np.dtype(dtype).itemsize for _, shape, dtype in told["tensors"]]
    content = np.concatenate(list(map(_bytes_of, found[1].values()))) if found else np.empty(sum(sizes), np.uint8)
    for start in range(0, content.size, PIECE):
        piece = content[start : start + PIECE]
        piece[:] = _broadcast(piece, host)
    parts = np.split(content, np.cumsum(sizes)[:-1])
    tensors = {name: part.view(dtype).reshape(shape)
               for part, (name, shape, dtype) in zip(parts, told["tensors"], strict=True)}  # fmt: skip
    return VAEConfig.from_dict(told["config"]), tensors


def _bytes_of(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _sent(message: bytes, host: int) -> bytes:
    """A message of one host, on all."""
    size = int(_broadcast(np.array([len(message)], np.int32), host)[0])
    content = np.zeros(size, np.uint8)
    content[: len(message)] = np.frombuffer(message, np.uint8)[:size]
    return _broadcast(content, host).tobytes()


def _broadcast(array: np.ndarray, host: int) -> np.ndarray:
    return np.asarray(broadcast_one_to_all(array, is_source=jax.process_index() == host)).astype(array.dtype)
