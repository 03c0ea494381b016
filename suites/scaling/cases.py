"""The programs that compilers are asked for: decoding 81 frames of 768x1360, on one device and on meshes of a chip."""

from __future__ import annotations

from typing import Any, NamedTuple

from twinvae.bench.aot.compilers import chip_of
from twinvae.bench.options import Options
from twinvae.forms import ROW_SLABS
from twinvae.jax.splits import Split

BACKEND, PRESET, DTYPE, FORM = "flax", "cogvideox-2b", "bfloat16", ROW_SLABS
LATENTS = (1, 21, 96, 170, 16)
ROWS = LATENTS[2]
ONE = Split()


class Case(NamedTuple):
    """The program of frame batches that devices run side by side.

    Args:
        first: those that begin the clip; else those that follow.
    """

    split: Split
    first: bool = True

    def __str__(self) -> str:
        axes = [f"{axis} on {count}" for axis, count in self.split._asdict().items() if count > 1]
        return ", ".join([*(axes or ["one device"]), *([] if self.first else ["later"])])


def _of(time: int = 1, rows: int = 1, first: bool = True) -> Case:
    return Case(Split(time=time, rows=rows), first)


# What the model of times is made of: a device that has all rows or some, and what devices in time are sent.
ALONE, LATER = _of(), _of(first=False)
# By chip, those that say most first.
CASES: dict[str, tuple[Case, ...]] = {
    "v6e": (
        _of(rows=4), _of(time=2, rows=4), _of(time=8), ALONE, LATER, _of(rows=4, first=False), _of(time=4, rows=4),
    ),
    "v5p": (_of(rows=4),),
    "h100": (
        ALONE, LATER, _of(rows=2), _of(time=2), _of(rows=8), _of(rows=8, first=False), _of(time=2, rows=4), _of(time=8),
        _of(time=5), _of(time=5, first=False),
    ),
}  # fmt: skip
HALVED = _of(time=5), _of(time=5, first=False)  # all that 5 devices in time run of 81 frames
COMPARED = _of(rows=4)  # whose time to compile is held against that of one device
# Clips, in frames and latents, whose speed-up over one chip is modelled, up to so many.
CLIPS = {81: 21, 321: 81}
CHIPS_AT = (1, 2, 4, 5, 8, 10, 16, 20, 32, 40, 64, 96, 128, 192, 256)
JUDGED = {81: 10, 321: 40}  # frames on chips


def asked(options: Options) -> list[dict[str, Any]]:
    """The cases of the chip whose compiler's platform was chosen."""
    chip = chip_of(options.platform)
    if DTYPE not in options.dtypes or BACKEND not in options.backends:
        return []
    return [{"case": case, "backend": BACKEND, "dtype": DTYPE} for case in CASES.get(chip or "", ())]


def modelled(options: Options) -> list[dict[str, Any]]:
    """Clips whose times on the chip are modelled: of one whose programs in all three kinds are asked for."""
    rows = asked(options)
    known = {row["case"] for row in rows}
    if not known >= {ALONE, LATER}:
        return []
    return [{"frames": frames, "backend": BACKEND, "dtype": DTYPE} for frames in CLIPS]
