"""The backends: those installed, found through the entry-point group `twinvae.backends`, and ports by their file."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Protocol

import numpy as np

from twinvae.capabilities import CAPABILITIES, Capability
from twinvae.config import VAEConfig
from twinvae.interface import VideoVAE
from twinvae.port import is_port, port

GROUP = "twinvae.backends"
REFERENCE = "torch"


class Layer(Protocol):
    """One layer, channel-last: the conv cache is None or diffusers' nested dictionary, its arrays channel-last."""

    def __call__(self, x: Any, temb: Any = None, zq: Any = None, conv_cache: Any = None) -> tuple[Any, Any]: ...


class BackendModule(Protocol):
    """What an entry point of the group `twinvae.backends` names: a module with these two functions."""

    def load(
        self, config: VAEConfig, tensors: dict[str, np.ndarray], *, dtype: str, jit: bool, checkpoint: str
    ) -> VideoVAE: ...

    def load_layer(
        self, class_name: str, init: dict[str, Any], tensors: dict[str, np.ndarray], *, dtype: str, jit: bool
    ) -> Layer: ...


def layer_class(class_name: str, known: Mapping[str, type]) -> type:
    """The class of a layer by diffusers' name.

    Raises:
        ValueError: it is not among those that a backend knows.
    """
    if class_name not in known:
        raise ValueError(f"unknown layer class {class_name!r}: choose one of {', '.join(sorted(known))}")
    return known[class_name]


def capabilities_of(backend: str) -> frozenset[Capability]:
    """What a backend can do; all, unless its module says less in `CAPABILITIES`."""
    return getattr(backend_module(backend), "CAPABILITIES", CAPABILITIES)


def installed() -> dict[str, EntryPoint]:
    """The entry point of every backend, by the backend's name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def backends() -> list[str]:
    """The names that `load` takes; the reference comes last."""
    return sorted(installed(), key=lambda name: (name == REFERENCE, name))


def backend_module(name: str) -> BackendModule:
    """The module of a backend: of one that is installed, or of a port, `port.py`, `port.py:make`, `module:make`.

    Raises:
        ValueError: no such backend is installed, or the port is none; the message says why.
    """
    if is_port(name):
        return port(name)
    points = installed()
    if name not in points:
        found = ", ".join(backends()) or "none: run `pip install -e .` in the checkout"
        raise ValueError(f"unknown backend {name!r}: installed are {found}")
    return points[name].load()
