"""Port: what the registry gives for a port's name, a backend module whose VAEs run in the port's process."""

from __future__ import annotations

import itertools
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from twinvae import arrays
from twinvae.capabilities import CAPABILITIES, Capability
from twinvae.checkpoint import fingerprint, read_checkpoint, variant_of, write_checkpoint
from twinvae.config import VAEConfig, preset_config
from twinvae.port.errors import NotTaken, PortError
from twinvae.port.layouts import checked_layout
from twinvae.port.probe import Finding, probe
from twinvae.port.process import Process
from twinvae.port.source import imported, label_of, parsed
from twinvae.port.vae import Budget, PortVAE, Ways
from twinvae.pretrained import preset_tensors
from twinvae.seeded import seeded_tensors
from twinvae.tensors import Tensors

LAYERS = itertools.count()


@cache
def port(name: str) -> Any:
    """The backend module of a port: itself where it is a whole backend of the house, a `Port` otherwise.

    Raises:
        ValueError: it is no port; the message says why, and what one is.
        PortError: importing it ended its process, or took too long.
    """
    found = Port(name)
    if found.kind != "backend":
        return found
    found.process.close()
    module: Any = imported(parsed(name))
    for part in (parsed(name).name or "").split("."):
        module = getattr(module, part) if part else module
    return module


class Port:
    """A port, opened in its process.

    Attributes:
        kind: "object", "builder" or "backend" (see `twinvae.port.source`).
        facts: what it declares of itself.
        takes: what its builder is given, of config, tensors, folder, variant, dtype and jit.
        found: what a probe found, when one was run (`probed`).
    """

    def __init__(self, name: str):
        self.name, self.label = name, label_of(name)
        self.process = Process(name, Budget().call)
        self.budget = Budget()
        try:
            opened = self.process.ask("open", f"importing {name}")
        except PortError as error:
            raise ValueError(str(error)) from None
        self.kind, self.facts, self.takes = opened["kind"], opened["facts"], set(opened["takes"])
        self.found: Finding | None = None
        self._layers: set[tuple[int, int]] = set()  # generations of the process and numbers of layers that it has
        self._folders: dict[tuple[str, str], tempfile.TemporaryDirectory[str]] = {}
        self._checked_facts()

    def _checked_facts(self) -> None:
        if "layout" in self.facts:
            checked_layout(self.facts["layout"])
        if "value_range" in self.facts:
            low_high = tuple(self.facts["value_range"])
            if len(low_high) != 2 or not low_high[0] < low_high[1]:
                raise ValueError(f"value_range={low_high}: expected two numbers, the lower first, such as (0, 1)")
            self.facts["value_range"] = low_high
        if self.facts.get("arrays", "jax") not in ("jax", "numpy", "torch"):
            raise ValueError(f"arrays={self.facts['arrays']!r}: expected jax, numpy or torch")
        for dtype in self.declared_dtypes or ():
            arrays.checked_dtype(dtype)
        if unknown := set(self.facts.get("capabilities", ())) - CAPABILITIES:
            known = ", ".join(sorted(CAPABILITIES))
            raise ValueError(f"capabilities: unknown {', '.join(sorted(unknown))}; choose from {known}")

    @property
    def declared_dtypes(self) -> tuple[str, ...] | None:
        given = self.facts.get("dtypes", self.facts.get("dtype"))
        return None if given is None else (given,) if isinstance(given, str) else tuple(given)

    @property
    def builds(self) -> bool:
        """Whether it is built from what it is given, rather than from what it knows."""
        return bool(self.takes & {"config", "tensors", "folder"})

    def own_source(self) -> dict[str, Any] | None:
        """The arguments of `twinvae.load` for what a port that builds nothing is; None where it does not say."""
        if "weights" in self.facts:
            return {"weights": str(self.facts["weights"]), "subfolder": self.facts.get("subfolder")}
        if "preset" in self.facts:
            return {"preset": str(self.facts["preset"]), "seed": int(self.facts.get("seed", 0))}
        return None

    def own_model(self) -> tuple[VAEConfig, Tensors] | None:
        """Config and tensors of what a port that builds nothing is; None where it does not say.

        Raises:
            ValueError, OSError: what it names cannot be read.
        """
        source = self.own_source()
        if source is None:
            return None
        if "weights" in source:
            return read_checkpoint(source["weights"], source["subfolder"])
        config = preset_config(source["preset"])
        return config, preset_tensors(source["preset"], source["seed"])

    def no_model(self) -> str:
        """What to do where nobody says which checkpoint it is."""
        return (
            f"{self.name} builds nothing from given tensors, and names no checkpoint that the reference could take: "
            'set weights = "a diffusers folder or hub id" in it, pass --weights, or name a class or function that '
            "takes (tensors), (config, tensors) or (folder)"
        )

    # What the registry asks of a backend module

    @property
    def CAPABILITIES(self) -> frozenset[Capability]:  # noqa: N802, the name of a backend module's
        return self.probed().capabilities

    def probed(
        self, config: VAEConfig | None = None, tensors: Tensors | None = None, dtypes: tuple[str, ...] = ()
    ) -> Finding:
        """What small calls found out, the first time on the model given (else the port's own, else the tiny preset).

        Raises:
            ValueError: there is no model to try.
            PortError: it cannot be built.
        """
        if self.found is None:
            if config is None or tensors is None:
                own = None if self.builds else self.own_model()
                if own is None and not self.builds:
                    raise ValueError(self.no_model())
                config = own[0] if own else preset_config("tiny")
                tensors = own[1] if own else seeded_tensors(config, 0)
            self.found = probe(self, config, tensors, dtypes or tuple(arrays.DTYPES))
        return self.found

    def load(
        self, config: VAEConfig, tensors: dict[str, np.ndarray], *, dtype: str, jit: bool, checkpoint: str,
        folder: Path | None = None,
    ) -> PortVAE:  # fmt: skip
        """Build it, in its process.

        Args:
            folder: that config and tensors were read from; None: where it reads one, they are written to it.
        Raises:
            ValueError: tensors of another checkpoint than the one that it is of.
            PortError: building it failed.
        """
        if not self.builds and (own := self._own_fingerprint()) not in (None, checkpoint):
            raise ValueError(f"{self.name} is built from {own}, and cannot be of the checkpoint {checkpoint}")
        found = self.probed(config, tensors)
        if dtype not in found.dtypes:
            raise NotTaken(f"{self.label} computes in {', '.join(found.dtypes)}, not {dtype}")
        vae = self.made(config, tensors, dtype, jit, checkpoint, found.ways, found.capabilities, folder)
        vae.inspected()
        return vae

    @cache  # noqa: B019, a port lives as long as the process
    def _own_fingerprint(self) -> str | None:
        own = self.own_model()
        return fingerprint(own[1]) if own else None

    def made(
        self, config: VAEConfig, tensors: Tensors, dtype: str, jit: bool, checkpoint: str, ways: Ways,
        capabilities: frozenset[Capability], folder: Path | None = None,
    ) -> PortVAE:  # fmt: skip
        """A VAE that is not built yet."""
        given: dict[str, Any] = dict.fromkeys(("tensors", "folder", "variant")) | {"jit": jit}
        given["config"] = {name: value for name, value in config.to_dict().items() if not name.startswith("_")}
        if "tensors" in self.takes:
            given["tensors"] = {name: tensor.astype(arrays.DTYPES[dtype]) for name, tensor in tensors.items()}
        if "folder" in self.takes:
            variant = variant_of(folder) if folder else None
            if folder is None or (variant and "variant" not in self.takes):  # which diffusers has to be told as well
                folder, variant = self._folder(config, tensors, checkpoint), None
            given |= {"folder": str(folder.resolve()), "variant": variant}
        compile = jit and "jit" not in self.takes and bool(self.facts.get("jit"))
        return PortVAE(
            self.label, self.process, self.budget, ways, config, dtype, checkpoint, given, compile, capabilities
        )

    def _folder(self, config: VAEConfig, tensors: Tensors, checkpoint: str) -> Path:
        """A diffusers folder with these tensors, for builders that read one."""
        key = checkpoint, config.model_dump_json()  # the same tensors may be of several configs
        if key not in self._folders:
            self._folders[key] = tempfile.TemporaryDirectory(prefix="twinvae-")
            write_checkpoint(Path(self._folders[key].name), config, tensors)
        return Path(self._folders[key].name)

    def load_layer(
        self, class_name: str, init: dict[str, Any], tensors: dict[str, np.ndarray], *, dtype: str, jit: bool
    ) -> Any:
        """One layer of the port's own `load_layer`, in its process."""
        ways = self.probed().ways
        own = self.found.vae if self.found else None
        number = next(LAYERS)
        vae = cast(PortVAE, own)

        def layer(x: Any, temb: Any = None, zq: Any = None, conv_cache: Any = None) -> tuple[Any, Any]:
            self.process.started()
            if (self.process.generation, number) not in self._layers:
                kept = vae.ask("layer_of", "load_layer", layer=number, dtype=dtype, jit=jit, class_name=class_name,
                               init=init, tensors=tensors)  # fmt: skip
                self._layers = {(self.process.generation, one) for one in kept}
            given = {"x": x, "temb": temb, "zq": zq, "conv_cache": conv_cache}
            given = {name: _as_dtype(value, dtype) for name, value in given.items() if value is not None}
            out = vae.ask("layer_call", "load_layer", layer=number, dtype=dtype, kind=ways.kind, given=given)
            return out if isinstance(out, tuple) else (out, None)

        return layer


def _as_dtype(value: Any, dtype: str) -> Any:
    if isinstance(value, dict):
        return {name: _as_dtype(part, dtype) for name, part in value.items()}
    return None if value is None else arrays.to_numpy(value).astype(arrays.DTYPES[dtype])
