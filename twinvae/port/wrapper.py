"""Wrapper: what a port puts in the place of a pipeline's VAE, as a pipeline outside of the port's process sees it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from twinvae import arrays
from twinvae.port.errors import PortGave
from twinvae.port.objects import READ

Call = Callable[[Any, np.ndarray, np.ndarray | None], tuple[np.ndarray, np.ndarray | None]]


class Fields(SimpleNamespace):
    """What pipelines read of a wrapper's config."""

    def __getattr__(self, name: str) -> Any:
        if name in READ:
            raise PortGave(f"the config of the pipeline wrapper has no {name}, which this pipeline reads")
        raise AttributeError(name)


class Wrapper:
    """Torch tensors in and out, [b, c, t, h, w]; nothing that it gives was computed here.

    Args:
        read: the fields of its config that pipelines read.
        call: of an operation, a clip and a generator's state, in the port's process.
    """

    def __init__(self, read: dict[str, Any], call: Call):
        self.config, self._call = Fields(**read), call

    def decode(self, z: Any) -> Any:
        """An object with the video as `.sample`."""
        return SimpleNamespace(sample=arrays.to_torch(self._call("decode", arrays.to_numpy(z), None)[0]))

    def encode(self, x: Any) -> Any:
        """An object with `.latent_dist.sample(generator)`, which encodes and draws."""

        def sample(generator: Any = None) -> Any:
            state = None if generator is None else generator.get_state().numpy()
            drawn, state = self._call("encode", arrays.to_numpy(x), state)
            if state is not None:
                generator.set_state(arrays.to_torch(state))
            return arrays.to_torch(drawn)

        return SimpleNamespace(latent_dist=SimpleNamespace(sample=sample))
