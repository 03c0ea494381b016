"""What is asked of the compilers: clips, as one program, in steps or in tiles, and what is measured here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from twinvae.bench.aot.compilers import chip_of
from twinvae.bench.options import Model, Options
from twinvae.forms import ROW_SLABS, WHOLE, Form
from twinvae.jax.chips import CHIPS
from twinvae.registry import REFERENCE
from twinvae.tiles import Operation

Way = Literal["one program", "streamed", "tiled"]
GB = 1e9
DTYPE = "bfloat16"
LEANEST = "1GiB"  # a budget for which a backend takes the form that needs least, whatever the chip has


class Case(NamedTuple):
    """A clip in video frames and pixels, and how it goes through.

    Args:
        way: as one program; a frame batch at a time; or so in the default tiles.
        backends: which are asked; empty: all.
        form: of the frame batches; None: the leanest.
    """

    name: str
    operation: Operation
    frames: int
    height: int
    width: int
    way: Way = "one program"
    backends: tuple[str, ...] = ()
    form: Form | None = None

    @property
    def size(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"

    def __str__(self) -> str:
        return f"{self.operation} {self.name} {self.size} {self.form or self.way}"


# Asked of the TPU compiler, with the full architecture in bfloat16.
CASES = (
    Case("one batch of 2 latents", "decode", 8, 768, 1360),
    Case("81 frames", "decode", 81, 768, 1360, backends=("flax",)),
    Case("81 frames", "decode", 81, 768, 1360, "streamed", ("flax",)),
    Case("81 frames", "encode", 81, 768, 1360, backends=("flax",)),
    Case("4 latents", "decode", 13, 480, 720, backends=("flax",)),
    Case("4 latents", "decode", 13, 480, 720, "tiled", ("flax",)),
)
# Rows dealt out to four chips: each holds the weights, and a quarter of all else.
SHARDED = Case("81 frames", "decode", 81, 768, 1360, backends=("flax",))
SHARED_BY = 4  # chips


# Asked of a card's compiler: clips of one frame batch, which a call runs as this program.
CARD_CASES = (
    Case("9 frames", "decode", 9, 480, 720, "streamed", form=WHOLE),
    Case("9 frames", "encode", 9, 480, 720, "streamed", form=WHOLE),
    Case("9 frames", "decode", 9, 768, 1360, "streamed", ("flax",), ROW_SLABS),
)
CARD_LAYERS = ("spatial norm",)  # of `LAYERS`; the small models hold the others
# Later frame batches of a small model, so large that sums of a norm's parts are smaller than every activation.
CARD_STEPS = {"decode": (1, 2, 24, 40), "encode": (1, 8, 192, 320)}


class LayerCase(NamedTuple):
    """A layer of the full architecture's width, small enough to be compiled whenever the suite runs.

    Args:
        x: the shape of its input, channel-last; zq: that of the latents that condition it.
    """

    layer: str
    init: Mapping[str, Any]
    x: tuple[int, ...]
    zq: tuple[int, ...] | None = None


LAYERS = {
    "causal conv": LayerCase(
        "CogVideoXCausalConv3d", {"in_channels": 128, "out_channels": 128, "kernel_size": 3}, (1, 8, 96, 160, 128)
    ),
    "spatial norm": LayerCase(
        "CogVideoXSpatialNorm3D", {"f_channels": 128, "zq_channels": 16, "groups": 32},
        (1, 8, 96, 160, 128), (1, 2, 12, 20, 16),
    ),
    "upsample": LayerCase(
        "CogVideoXUpsample3D", {"in_channels": 128, "out_channels": 128, "compress_time": True}, (1, 4, 48, 80, 128)
    ),
}  # fmt: skip


class Measured(NamedTuple):
    """A clip whose peak is measured on this machine, in a process of its own; sizes in video frames and pixels."""

    operation: Operation
    frames: int
    height: int
    width: int

    @property
    def size(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"

    def __str__(self) -> str:
        return f"{self.operation} {self.size}"


# In float32. A small model on frames that are large enough for its activations to stand out.
MEASURED_SMALL = (Measured("decode", 9, 192, 320),)
MEASURED_LARGE = (Measured("decode", 9, 96, 160), Measured("encode", 9, 96, 160))
# Frame batches of a small model, after the first, for the forms in slabs; about 8 rows in each of the largest.
STEPS = {"decode": (1, 2, 12, 20), "encode": (1, 8, 96, 160)}
STEP_SLAB = 2**17


def asked(options: Options) -> list[dict[str, Any]]:
    """Cases of the TPU compiler whose platform was chosen, for every model of the full architecture."""
    return _asked(CASES, options, "tpu")


def asked_of_cards(options: Options) -> list[dict[str, Any]]:
    """Those of a card's compiler."""
    return _asked(CARD_CASES, options, "gpu")


def _asked(found: Sequence[Case], options: Options, kind: str) -> list[dict[str, Any]]:
    return [
        {"case": case, "model": model, "backend": backend, "dtype": DTYPE}
        for case in found
        for model, backend in _large(options, kind)
        if not case.backends or backend in case.backends
    ]


def sharded(options: Options) -> list[dict[str, Any]]:
    return [
        {"case": SHARDED, "model": model, "backend": backend, "dtype": DTYPE}
        for model, backend in _large(options, "tpu")
        if backend in SHARDED.backends
    ]


def layers(options: Options) -> list[dict[str, Any]]:
    """Small programs for the compiler of a chip."""
    chip, backends = chip_of(options.platform), [name for name in options.backends if name != REFERENCE]
    if chip is None or DTYPE not in options.dtypes:
        return []
    names = LAYERS if CHIPS[chip].kind == "tpu" else CARD_LAYERS
    return [{"layer": layer, "backend": backend, "dtype": DTYPE} for layer in names for backend in backends]


def small_steps(options: Options) -> list[dict[str, Any]]:
    """Frame batches of small models for a card's compiler, in the fastest form."""
    chip = chip_of(options.platform)
    return _small_steps(options) if chip and CHIPS[chip].kind == "gpu" and DTYPE in options.dtypes else []


def measured(options: Options) -> list[dict[str, Any]]:
    """Clips to measure on this machine's own device, the reference beside the backends."""
    if chip_of(options.platform) is not None or "float32" not in options.dtypes:
        return []
    backends = [*(name for name in options.backends if name != REFERENCE), REFERENCE]
    return [
        {"clip_size": size, "model": model, "backend": backend, "dtype": "float32"}
        for model in options.models
        for size in (MEASURED_LARGE if model.is_large else MEASURED_SMALL)
        for backend in backends
    ]


def steps(options: Options) -> list[dict[str, Any]]:
    """Small frame batches in the leaner forms of the backends that have them, for this machine's own compiler."""
    return _small_steps(options) if chip_of(options.platform) is None and DTYPE in options.dtypes else []


def _small_steps(options: Options) -> list[dict[str, Any]]:
    return [
        {"operation": operation, "model": model, "backend": backend, "dtype": DTYPE}
        for model in options.models
        if not model.is_large
        for backend in options.backends
        if backend != REFERENCE
        for operation in STEPS
    ]


def _large(options: Options, kind: str) -> list[tuple[Model, str]]:
    chip = chip_of(options.platform)
    if chip is None or CHIPS[chip].kind != kind or DTYPE not in options.dtypes:
        return []
    return [
        (model, backend)
        for model in options.models
        if model.is_large
        for backend in options.backends
        if backend != REFERENCE
    ]
