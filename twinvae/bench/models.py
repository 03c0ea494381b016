"""Model: what suites measure, a preset with seeded weights or a checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from twinvae.checkpoint import fingerprint, read_checkpoint
from twinvae.config import VAEConfig, preset_config
from twinvae.pretrained import preset_tensors
from twinvae.tensors import Tensors, tensor_shapes

# A model of the full architecture takes minutes per mode and dtype.
LARGE = 10_000_000


@dataclass(frozen=True)
class Model:
    """What to measure: a preset with seeded weights, or a checkpoint.

    Args:
        label: its name in records.
        source: the arguments of `twinvae.load` that choose it.
    """

    label: str
    config: VAEConfig
    source: dict[str, Any] = field(hash=False)

    @property
    def is_large(self) -> bool:
        return sum(map(math.prod, tensor_shapes(self.config).values())) > LARGE

    @classmethod
    def of_preset(cls, name: str, seed: int) -> Model:
        return cls(name, preset_config(name), {"preset": name, "seed": seed})

    @classmethod
    def of_checkpoint(cls, weights: str, subfolder: str | None, seed: int = 0) -> Model:
        """A diffusers folder or hub id, called by its name and the fingerprint of its tensors.

        Raises:
            OSError, ValueError: it cannot be read.
        """
        config, tensors = read_checkpoint(weights, subfolder)
        label = f"{Path(weights).name}@{fingerprint(tensors)}"
        return cls(label, config, {"weights": weights, "subfolder": subfolder, "seed": seed})

    def tensors(self) -> Tensors:
        if "weights" in self.source:
            return read_checkpoint(self.source["weights"], self.source["subfolder"])[1]
        return preset_tensors(self.source["preset"], self.source["seed"])


TRAINED = Model.of_preset("small", 0)  # what suites look at real pictures with
