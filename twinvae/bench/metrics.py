"""How far two arrays are apart: pure functions of the found and the expected array.

A NaN or infinity that stands at the same place in both arrays is left out. One that stands in only one of them is as
wrong as can be: the error is infinite, the similarity the lowest that the metric knows. Shapes must be equal; nothing
is broadcast.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float
from skimage.metrics import structural_similarity

Values = Float[np.ndarray, "..."]
Video = Float[np.ndarray, "b t h w c"]

DATA_RANGE = 2.0  # videos lie in [-1, 1]
GRADES = ((1e-6, "exact"), (1e-4, "excellent"), (1e-3, "good"), (1e-2, "suspicious"), (1e-1, "drifting"))


def mae(found: Values, expected: Values) -> float:
    """Mean absolute error."""
    found, expected = _aligned(found, expected)
    return _or_inf(np.mean(np.abs(found - expected))) if found.size else 0.0


def max_abs(found: Values, expected: Values) -> float:
    """Largest absolute error."""
    found, expected = _aligned(found, expected)
    return _or_inf(np.max(np.abs(found - expected), initial=0.0))


def relative_l2(found: Values, expected: Values) -> float:
    """Euclidean norm of the error over that of the expected array; infinite where only the latter is zero."""
    found, expected = _aligned(found, expected)
    error, size = np.linalg.norm(found - expected), np.linalg.norm(expected)
    if error == 0:
        return 0.0
    return float(error / size) if size and np.isfinite([error, size]).all() else np.inf


def cosine(found: Values, expected: Values) -> float:
    """Cosine of the angle between the arrays as vectors, -1 to 1; two zero arrays count as parallel."""
    found, expected = _aligned(found, expected)
    sizes = np.linalg.norm(found), np.linalg.norm(expected)
    if not np.isfinite(sizes).all():
        return -1.0
    if not all(sizes):
        return 1.0 if not any(sizes) else 0.0
    return float(np.clip(np.dot(found / sizes[0], expected / sizes[1]), -1, 1))


def psnr(found: Video, expected: Video) -> float:
    """Peak signal-to-noise ratio in dB for values in [-1, 1]; infinite for equal arrays."""
    found, expected = _aligned(found, expected)
    squared_error = np.mean((found - expected) ** 2) if found.size else 0.0
    if not np.isfinite(squared_error):
        return -np.inf
    return float(10 * np.log10(DATA_RANGE**2 / squared_error)) if squared_error else np.inf


def ssim(found: Video, expected: Video) -> float:
    """Structural similarity of each frame, averaged, -1 to 1 (7 pixel window, smaller for frames below that)."""
    _aligned(found, expected)
    shared = _ignored(found, expected)
    found, expected = (np.where(shared, 0, np.asarray(array, np.float64)) for array in (found, expected))
    if not np.isfinite(found).all() or not np.isfinite(expected).all():
        return -1.0
    window = min(7, *found.shape[2:4])
    frames = zip(*(array.reshape(-1, *array.shape[2:]) for array in (found, expected)), strict=True)
    options = {"data_range": DATA_RANGE, "channel_axis": -1, "win_size": window - 1 + window % 2}
    return float(np.mean([structural_similarity(*pair, **options) for pair in frames]))


def grade(error: float) -> str:
    """The word for a mean absolute error, from "exact" (below 1e-6) to "broken" (1e-1 and above, or NaN)."""
    return next((word for bar, word in GRADES if error < bar), "broken")


def _ignored(found: Values, expected: Values) -> np.ndarray:
    """Where both are NaN, or the same infinity."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return (np.isnan(found) & np.isnan(expected)) | (np.isinf(found) & (found == expected))


def _aligned(found: Values, expected: Values) -> tuple[np.ndarray, np.ndarray]:
    if np.shape(found) != np.shape(expected):
        raise ValueError(f"shapes differ: found {np.shape(found)}, expected {np.shape(expected)}")
    kept = ~_ignored(found, expected)
    return np.asarray(found, np.float64)[kept], np.asarray(expected, np.float64)[kept]


def _or_inf(error: Any) -> float:
    return float(error) if np.isfinite(error) else np.inf
