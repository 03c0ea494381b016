"""Bars, what values are held to and why: the kind, those that several suites share, and how arrays are held to them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pytest

from twinvae.arrays import DTYPES
from twinvae.bench import metrics
from twinvae.bench.records import Key


class Bar(NamedTuple):
    """What a value is held to, as a record has it, and why.

    Attributes:
        limit: past it a value is wrong; None where there is none, or where the test computes it.
        tolerance: the factor by which it may get worse than its baseline; infinite: it is only shown.
        floor: values at least this good are all equal.
        why: what rounding gives, what the smallest real fault gives, and where between them it lies.
    """

    limit: float | None = None
    tolerance: float = 1.0
    floor: float = 0.0
    better: Literal["lower", "higher", "equal"] = "lower"
    unit: str = ""
    why: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        """What a record says of it."""
        return {name: value for name, value in self._asdict().items() if name != "why"}


Bars = Mapping[str, Bar]  # by metric


class Held(NamedTuple):
    """What is held to which bars: a suite's `bars.py` lists all of its own in `BARS`.

    Attributes:
        where: regular expressions that fields of its records match whole.
    """

    what: str
    bars: Bars
    where: Mapping[str, str] = {}

    def bar(self, key: Key) -> Bar | None:
        """The bar of a value; None where this is about others."""
        matches = all(re.fullmatch(pattern, getattr(key, field)) for field, pattern in self.where.items())
        return self.bars.get(key.metric) if matches else None


def because(why: str, **bars: Bar) -> dict[str, Bar]:
    """Bars by metric that have one reason; a bar's own stands before it."""
    return {metric: bar._replace(why=" ".join(filter(None, (bar.why, why)))) for metric, bar in bars.items()}


# What is left of an error in float64 and float32 is rounding, which differs between processors and versions.
ROUNDING = 10.0
SHOWN_ONLY = float("inf")
# What a whole model in bfloat16 errs by is in part chance, and less so of many clips together (see VS_TORCH).
DRAWS = 16

VS_TORCH = Bar(
    1.25, 1.2, 1.0, unit="x", why="A bfloat16 has 8 bits: errors are held against those that PyTorch makes in bfloat16 "
    "itself on the same input, both against float32. With a processor's newer instructions and without, which is the "
    "same function rounded at other places, the ratio came to at most 1.52 for one clip, 1.29 for 4, 1.20 for 8 and "
    "1.12 for 16 clips together, so 16 are taken; of layers alone it is at most 1.001. A convolution rounded again "
    "when its bias is added gives 1.26 to 1.30 of itself, and 1.19 of an encoder; SiLU rounded after each "
    "operation 1.31 of a down block, 1.07 of an encoder; kernels folded in bfloat16 1.42 of an upsampling: layers "
    "alone see what a whole model hides. What errs less than PyTorch (a spatial norm 0.77) and comes back to 1 is "
    "seen by `mae` against its baseline.",
)  # fmt: skip

# A whole network's video or latents, of magnitude 1, and with a wrong frame or channel as far apart.
WHOLE: dict[str, dict[str, Bar]] = {
    "float64": because(
        "Rounding gives at most 1.6e-15 (mae), 9.8e-15 (max_abs), 3.3e-15 (relative_l2) and 300 dB. The smallest "
        "planted faults, norms or activations computed in float32, give 3.1e-8, 1.1e-7, 8.9e-8 and 150 dB: the "
        "limits lie half way between, as powers of ten go. Cosine and SSIM are blind to them (1 - 1.3e-14, 1 - "
        "1.4e-13) and there for what is grossly off; their factors and that of dB leave room for rounding alone.",
        mae=Bar(1e-11, ROUNDING, 1e-13),
        max_abs=Bar(1e-10, ROUNDING, 1e-12),
        relative_l2=Bar(1e-11, ROUNDING, 1e-13),
        cosine=Bar(1 - 1e-12, 1 + 1e-12, 1 - 1e-13, "higher"),
        psnr=Bar(200, 1.1, 240, "higher", "dB"),
        ssim=Bar(1 - 1e-12, 1 + 1e-12, 1 - 1e-13, "higher"),
    ),
    "float32": because(
        "Rounding gives at most 4.1e-7 (mae), 5.5e-6 (max_abs), 1.2e-6 (relative_l2), 126 dB. The smallest planted "
        "fault that is larger than rounding in float32, an epsilon of 1e-5 for 1e-6 in every norm, gives 1.1e-5, "
        "6.1e-5, 3.1e-5, 103 dB, a cosine of 1 - 4.6e-10 and an SSIM of 1 - 7.4e-9: mae and relative_l2 see it, "
        "the others what is grossly off. The full architecture is held to float64, because PyTorch's own float32 "
        "is off by 1.96e-6 on a processor without AVX-512.",
        mae=Bar(1e-6, ROUNDING, 1e-7),
        max_abs=Bar(1e-4, ROUNDING, 1e-6),
        relative_l2=Bar(1e-5, ROUNDING, 1e-6),
        cosine=Bar(1 - 1e-9, 1 + 1e-9, 1 - 1e-10, "higher"),
        psnr=Bar(100, 1.1, 120, "higher", "dB"),
        ssim=Bar(1 - 1e-6, 1 + 1e-6, 1 - 1e-7, "higher"),
    ),
    "bfloat16": because(
        "Absolute errors are those of bfloat16 (mae up to 0.0112, max_abs 0.12), and differ by the model: each is "
        "held to its baseline. Of 16 clips together, processors with newer instructions and without were apart by "
        "at most 1.06, block by block 1.04; what max_abs, cosine, dB and SSIM may move by is not measured. A "
        "rounding more between a norm and its condition moves mae by 1.16.",
        mae=Bar(None, 1.2),
        max_abs=Bar(None, 2),
        relative_l2=Bar(None, 1.2),
        cosine=Bar(None, 1.001, better="higher"),
        psnr=Bar(None, 1.1, better="higher", unit="dB"),
        ssim=Bar(None, 1.1, better="higher"),
    )
    | {"mae_vs_torch": VS_TORCH},
}

Arrays = Mapping[str, np.ndarray]


def drawn(video: np.ndarray, dtype: str) -> np.ndarray:
    """What errors are measured on: a clip [1, t, h, w, c], and in bfloat16 copies of it too, each a pixel further."""
    shifts = range(DRAWS if dtype == "bfloat16" else 1)
    return np.concatenate([np.roll(video, pixels, axis=3) for pixels in shifts])


def precise(dtype: str) -> str:
    """The dtype of the reference that errors are measured against: float32 for bfloat16."""
    return "float32" if dtype == "bfloat16" else dtype


def measured(bars: Bars, found: Arrays, expected: Arrays, in_torch: Arrays | None = None) -> dict[str, float]:
    """Each metric's worst value over arrays of the same names; "mae_vs_torch" is over all of them together.

    Args:
        in_torch: what PyTorch gives in the dtype under test, where `expected` is in a more precise one.
    """
    values = {}
    for name in bars:
        if name == "mae_vs_torch":
            assert in_torch is not None, "mae_vs_torch is over PyTorch's own error: give in_torch"
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


def hold(record: Callable[..., None], bars: Bars, values: Mapping[str, float | None], case: str, **fields: Any) -> None:
    """Record every value beside its bar; a value past its limit fails the test when its body is done."""
    for metric, value in values.items():
        record(case=case, metric=metric, value=value, **bars[metric].fields, **fields)
