"""Experiments: small clips that tell causes apart, put through a port, and what came out held against the reference."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from twinvae import arrays
from twinvae.bench.diagnosis.variant import UNSET, Settings
from twinvae.config import VAEConfig
from twinvae.tiles import Operation

OUTPUT = "output"
# A relative error that rounding leaves, per element and over the largest value: 100 times what it left of our own.
ROUNDING = {"float64": 1e-11, "float32": 5e-5}


class Case(NamedTuple):
    """A clip and how it is run.

    Attributes:
        size: items, frames, height and width, of latents to decode and of pixels to encode.
        fields: of the config, other than the port's own: a port is built of them where it can be.
        needs: what a port has to have beside encode and decode.
    """

    name: str
    operation: Operation
    size: tuple[int, int, int, int]
    settings: Settings = UNSET
    fields: Mapping[str, Any] = {}
    needs: str = ""

    def clip(self, config: VAEConfig, seed: int) -> np.ndarray:
        rng = np.random.default_rng([zlib.crc32(self.name.encode()), seed])
        if self.operation == "encode":
            return rng.uniform(-1, 1, (*self.size, config.in_channels))
        return 1.5 * rng.standard_normal((*self.size, config.latent_channels))


TILES = Settings(tile=(24, 32), overlap=(1 / 3, 1 / 4))
_QUANT = {"latent_channels": 3, "use_quant_conv": True, "use_post_quant_conv": True}

# The simplest first: a cause is looked for in the simplest case that departs. Heights and widths differ throughout.
CASES = (
    Case("one latent", "decode", (1, 1, 3, 2)),
    Case("one frame", "encode", (1, 1, 24, 16)),
    Case("two latents", "decode", (1, 2, 2, 1)),
    Case("two frames", "encode", (1, 2, 16, 8)),
    Case("three latents", "decode", (1, 3, 2, 1)),
    Case("three frames", "encode", (1, 3, 16, 8)),
    Case("one frame of an odd size", "encode", (1, 1, 21, 10)),
    Case("four latents, two frame batches", "decode", (1, 4, 1, 2)),
    Case("eight frames", "encode", (1, 8, 8, 16)),
    Case("nine frames, one frame batch", "encode", (1, 9, 8, 16)),
    Case("two items of one latent", "decode", (2, 1, 2, 1)),
    Case("two items of one frame", "encode", (2, 1, 16, 8)),
    Case("five latents, two frame batches", "decode", (1, 5, 1, 2)),
    Case("sixteen frames, two frame batches", "encode", (1, 16, 8, 16)),
    Case("six latents, three frame batches", "decode", (1, 6, 1, 2)),
    Case("17 frames, two frame batches", "encode", (1, 17, 8, 16)),
    Case("24 frames, three frame batches", "encode", (1, 24, 8, 16)),
    Case("one latent, larger than half the sample size", "decode", (1, 1, 5, 7)),
    Case("three latents, a frame batch each", "decode", (1, 3, 2, 1), Settings(together=1), needs="batches"),
    Case("five latents, frame batches of 3", "decode", (1, 5, 2, 1), Settings(together=3), needs="batches"),
    Case("six frames, frame batches of 2", "encode", (1, 6, 16, 8), Settings(together=2), needs="batches"),
    Case("one latent in tiles", "decode", (1, 1, 7, 8), TILES, needs="tiling"),
    Case("one frame in tiles", "encode", (1, 1, 56, 72), TILES, needs="tiling"),
    Case("three latents in tiles", "decode", (1, 3, 5, 6), TILES, needs="tiling"),
    Case("one latent, act_fn mish", "decode", (1, 1, 2, 1), fields={"act_fn": "mish"}, needs="config"),
    Case("one frame, act_fn mish", "encode", (1, 1, 16, 8), fields={"act_fn": "mish"}, needs="config"),
    Case("one frame, norm_eps 0.01", "encode", (1, 1, 16, 8), fields={"norm_eps": 1e-2}, needs="config"),
    Case("one latent, norm_eps 0.01", "decode", (1, 1, 2, 1), fields={"norm_eps": 1e-2}, needs="config"),
    Case("one latent, quant convs", "decode", (1, 1, 2, 1), fields=_QUANT, needs="config"),
    Case("one frame, quant convs", "encode", (1, 1, 16, 8), fields=_QUANT, needs="config"),
    Case("two latents, time compressed by 2", "decode", (1, 2, 2, 1), fields={"temporal_compression_ratio": 2},
         needs="config"),
    Case("two frames, time compressed by 2", "encode", (1, 2, 16, 8), fields={"temporal_compression_ratio": 2},
         needs="config"),
)  # fmt: skip


class Subject(NamedTuple):
    """A port as it is experimented with.

    Attributes:
        vae: has `encode(video)` and `decode(latents)`, channel-last; with more, it is judged on more.
        tensors: what it was built of.
        has: of "activations", "batches", "tiling" and "config".
        build: another one, from a config and tensors.
    """

    vae: Any
    config: VAEConfig
    tensors: Mapping[str, np.ndarray]
    has: frozenset[str] = frozenset()
    build: Callable[[VAEConfig, Mapping[str, np.ndarray]], Any] | None = None
    dtype: str = "float64"

    def call(self, case: Case, clip: np.ndarray, vae: Any = None) -> dict[str, np.ndarray]:
        """The port's blocks, where it shows them, and its output; what it raises is the caller's to say."""
        vae = self.vae if vae is None else vae
        clip = clip.astype(arrays.DTYPES[self.dtype])
        with _set(vae, case, "batches" in self.has):
            out = getattr(vae, case.operation)(clip)
            parts = {OUTPUT: _numpy(getattr(out, "moments", out))}
            if "activations" in self.has and not case.settings.tile:
                blocks = vae.activations(case.operation, clip)
                parts = {name: _numpy(block) for name, block in blocks.items()} | parts
        return parts


def subject_of(
    vae: Any, config: VAEConfig, tensors: Mapping[str, np.ndarray], build: Any = None, dtype: str = "float64"
) -> Subject:
    """What a port has, found by looking at it."""
    said = getattr(vae, "capabilities", None)
    batches = all(hasattr(vae, f"num_{kind}_frames_batch_size") for kind in ("sample", "latent"))
    found = {
        "activations": hasattr(vae, "activations") and (said is None or "activations" in said),
        "tiling": hasattr(vae, "enable_tiling") and (said is None or "tiling" in said),
        "batches": batches and (said is None or "batches" in said),
        "config": build is not None,
    }
    return Subject(vae, config, tensors, frozenset(name for name, has in found.items() if has), build, dtype)


@contextmanager
def _set(vae: Any, case: Case, batches: bool) -> Iterator[None]:
    """A case's settings, set back afterwards."""
    before = {name: setting for name, setting in vars(vae).items() if not name.startswith("_")}
    try:
        if batches and case.settings.together:
            vae.num_sample_frames_batch_size = vae.num_latent_frames_batch_size = case.settings.together
        if case.settings.tile:
            vae.enable_tiling(*case.settings.tile, *case.settings.overlap)
        yield
    finally:
        vars(vae).update(before)


def _numpy(array: Any) -> np.ndarray:
    return np.asarray(arrays.to_numpy(array))


def agreement(found: np.ndarray, expected: np.ndarray, bar: float) -> float:
    """The share of elements that agree to rounding; frames that only one side has agree with nothing.

    What lies at -1 or 1, where values pile up there as clipped ones do, says nothing and is not counted.
    """
    if found.ndim != 5 or found.shape[0] != expected.shape[0] or found.shape[2:] != expected.shape[2:]:
        return 0.0
    frames, longest = min(found.shape[1], expected.shape[1]), max(found.shape[1], expected.shape[1])
    one, other = found[:, :frames].astype(np.float64), expected[:, :frames]
    scale = np.abs(other).max(initial=0) or 1.0
    counted = np.abs(one) != 1 if at_bounds(found) else np.ones(one.shape, bool)
    close = (np.abs(one - other) <= bar * scale) & counted
    return float(close.sum() / counted.sum() * frames / longest) if counted.any() else 1.0


def at_bounds(found: np.ndarray) -> bool:
    """Whether values pile up at -1 and 1, as clipped ones do."""
    return float(np.mean(np.abs(found) == 1)) > 0.005


def off_by(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest error, over the frames that both have; infinite where shapes say something else."""
    if found.ndim != 5 or found.shape[0] != expected.shape[0] or found.shape[2:] != expected.shape[2:]:
        return float("inf")
    frames = min(found.shape[1], expected.shape[1])
    return float(np.abs(found[:, :frames].astype(np.float64) - expected[:, :frames]).max(initial=0))
