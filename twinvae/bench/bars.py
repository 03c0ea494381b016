"""The bars that parity is held to, the clips that they are sound for, and how arrays become records held to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pytest

from twinvae.arrays import DTYPES
from twinvae.bench import metrics


class Bar(NamedTuple):
    """What a value is held to: the limit, and how far past its baseline it may be (see `twinvae.bench.records`)."""

    limit: float | None
    tolerance: float
    floor: float
    better: str = "lower"
    unit: str = ""


# Rounding is what is left of the error, and differs between processors and versions within these factors.
ROUNDING = 10.0
# A bfloat16 value has 8 bits: errors are held against those that PyTorch makes in bfloat16 itself.
VS_TORCH = Bar(1.25, 1.2, 1.0, unit="x")
# What a whole model in bfloat16 errs by is in part chance. With a processor's newer instructions and without, which is
# the same function rounded at other places, it was apart by a factor of up to 1.54 for one clip, and of 1.06 for 16
# together; over PyTorch's own error it came to 1.52 and 1.12.
DRAWS = 16

WHOLE: dict[str, dict[str, Bar]] = {
    "float64": {
        "mae": Bar(1e-11, ROUNDING, 1e-13),
        "max_abs": Bar(1e-10, ROUNDING, 1e-12),
        "relative_l2": Bar(1e-11, ROUNDING, 1e-13),
        "cosine": Bar(1 - 1e-12, 1 + 1e-12, 1 - 1e-13, "higher"),
        "psnr": Bar(200, 1.1, 240, "higher", "dB"),
        "ssim": Bar(1 - 1e-12, 1 + 1e-12, 1 - 1e-13, "higher"),
    },
    "float32": {
        "mae": Bar(1e-6, ROUNDING, 1e-7),
        "max_abs": Bar(1e-4, ROUNDING, 1e-6),
        "relative_l2": Bar(1e-5, ROUNDING, 1e-6),
        "cosine": Bar(1 - 1e-9, 1 + 1e-9, 1 - 1e-10, "higher"),
        "psnr": Bar(100, 1.1, 120, "higher", "dB"),
        "ssim": Bar(1 - 1e-6, 1 + 1e-6, 1 - 1e-7, "higher"),
    },
    "bfloat16": {
        "mae": Bar(None, 1.2, 0),
        "max_abs": Bar(None, 2, 0),
        "relative_l2": Bar(None, 1.2, 0),
        "cosine": Bar(None, 1.001, 0, "higher"),
        "psnr": Bar(None, 1.1, 0, "higher", "dB"),
        "ssim": Bar(None, 1.1, 0, "higher"),
        "mae_vs_torch": VS_TORCH,
    },
}
# One layer: its outputs have a magnitude of about 1.
LAYER: dict[str, dict[str, Bar]] = {
    "float64": {"mae": Bar(None, ROUNDING, 1e-15), "relative_l2": Bar(1e-13, ROUNDING, 1e-14)},
    "float32": {"mae": Bar(None, ROUNDING, 1e-6), "relative_l2": Bar(2e-6, ROUNDING, 1e-6)},
    "bfloat16": {"mae": Bar(None, 1.2, 0), "mae_vs_torch": VS_TORCH},
}
# A block inside the whole model, whose error is its own and that of all before it.
BLOCK: dict[str, dict[str, Bar]] = {
    "float64": {metric: WHOLE["float64"][metric] for metric in ("max_abs", "mae", "relative_l2")},
    "float32": {
        "max_abs": Bar(1e-4, ROUNDING, 1e-6),
        "mae": Bar(None, ROUNDING, 1e-7),
        "relative_l2": WHOLE["float32"]["relative_l2"],
    },
    "bfloat16": {"max_abs": Bar(None, 2, 0), "mae": Bar(None, 1.2, 0), "mae_vs_torch": VS_TORCH},
}

# Of one clip alone, where 16 are too many to compute.
ONE_DRAW = {"mae": Bar(None, 1.5, 0), "relative_l2": Bar(None, 1.5, 0)}

Arrays = Mapping[str, np.ndarray]


def drawn(video: np.ndarray, dtype: str) -> np.ndarray:
    """What errors are measured on: a clip [1, t, h, w, c], and in bfloat16 copies of it too, each a pixel further."""
    shifts = range(DRAWS if dtype == "bfloat16" else 1)
    return np.concatenate([np.roll(video, pixels, axis=3) for pixels in shifts])


def precise(dtype: str) -> str:
    """The dtype of the reference that errors are measured against: float32 for bfloat16."""
    return "float32" if dtype == "bfloat16" else dtype


def measured(
    bars: Mapping[str, Bar], found: Arrays, expected: Arrays, in_torch: Arrays | None = None
) -> dict[str, float]:
    """Each metric's worst value over arrays of the same names; "mae_vs_torch" is over all of them together.

    Args:
        in_torch: what PyTorch gives in the dtype under test, where `expected` is in a more precise one.
    """
    values = {}
    for name in bars:
        if name == "mae_vs_torch":
            values[name] = ratio(_all(found, expected), _all(in_torch, expected))
        else:
            worst = max if bars[name].better == "lower" else min
            values[name] = worst(getattr(metrics, name)(found[part], expected[part]) for part in expected)
    return values


def ratio(error: float, of_torch: float) -> float:
    """An error over PyTorch's own; 1 where both are none."""
    return error / of_torch if of_torch else (np.inf if error else 1.0)


def _all(found: Arrays, expected: Arrays) -> float:
    return metrics.mae(*(np.concatenate([np.ravel(side[part]) for part in expected]) for side in (found, expected)))


def check_dtypes(found: Arrays, dtype: str) -> None:
    """Fail where an array came back in another dtype than that of the model."""
    others = {part: str(array.dtype) for part, array in found.items() if array.dtype != DTYPES[dtype]}
    if others:
        pytest.fail(f"expected {dtype}, found {others}", pytrace=False)


def check_shapes(found: Arrays, expected: Arrays) -> None:
    """Fail where parts are missing, surplus or of another shape."""
    shapes = [{part: tuple(array.shape) for part, array in side.items()} for side in (found, expected)]
    if shapes[0] != shapes[1]:
        differing = {part for part in {*shapes[0], *shapes[1]} if shapes[0].get(part) != shapes[1].get(part)}
        lines = [f"{part}: found {shapes[0].get(part)}, expected {shapes[1].get(part)}" for part in sorted(differing)]
        pytest.fail(f"shapes differ from PyTorch's: {'; '.join(lines)}", pytrace=False)


def hold(
    record: Callable[..., None], bars: Mapping[str, Bar], values: Mapping[str, float], case: str, **fields: Any
) -> None:
    """Record every value beside its bar; a value past its limit fails the test when its body is done."""
    for metric, value in values.items():
        bar = bars[metric]
        record(case=case, metric=metric, value=value, limit=bar.limit, tolerance=bar.tolerance, floor=bar.floor,
               better=bar.better, unit=bar.unit, **fields)  # fmt: skip
