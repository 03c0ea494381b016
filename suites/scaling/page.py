"""Tables of the scaling page: what each number of chips comes to, and what is sent."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from twinvae.bench.drawing import load_arrays
from twinvae.bench.records import RunData
from twinvae.jax.chips import CHIPS, Chip
from twinvae.jax.splits import Split

EXHIBIT = "speed-up "


class Curve(NamedTuple):
    """Points of one clip on a chip."""

    frames: int
    chip: str
    arrays: dict[str, np.ndarray]


def curves(data: RunData) -> list[Curve]:
    """What the model gave, by clip."""
    found = []
    for exhibit in data.exhibits:
        if exhibit.name.startswith(EXHIBIT) and (arrays := load_arrays(data, exhibit)):
            frames, chip = exhibit.caption.split("|")
            found.append(Curve(int(frames), chip, arrays))
    return found


def speed_up_table(curve: Curve) -> tuple[list[str], list[list[str]]]:
    """A row per number of chips."""
    arrays = curve.arrays
    rows = [
        [
            str(chips),
            " x ".join(f"{axis} {count}" for axis, count in zip(Split._fields, split, strict=True) if count > 1),
            *(f"{arrays[name][place]:.2f}" for name in ("speed_up", "hidden", "time", "rows")),
            f"{arrays['speed_up'][place] / chips:.0%}",
        ]
        for place, (chips, split) in enumerate(zip(arrays["chips"], arrays["split"], strict=True))
    ]
    return ["chips", "split", "speed-up", "if sending is hidden", "time alone", "rows alone", "efficiency"], rows


def spec_of(chip: str) -> Chip:
    return CHIPS[chip]


TABLES = (curves, speed_up_table, spec_of)
