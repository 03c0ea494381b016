"""Where tiles meet, and how much of it is seen: pure functions of grids and arrays."""

from __future__ import annotations

from itertools import product

import numpy as np
from jaxtyping import Float

from twinvae.tiles import HEIGHT, WIDTH, Axis, TileGrid

Video = Float[np.ndarray, "b t h w c"]


def seams(axis: Axis, size: int) -> list[int]:
    """The cells of the output, which has `size` of them, at which another tile begins."""
    return [place for place in range(axis.limit, axis.limit * len(axis.slices), axis.limit) if place < size]


def difference_map(tiled: Video, untiled: Video) -> Float[np.ndarray, "h w"]:
    """Mean absolute difference over clips, frames and channels."""
    return np.abs(tiled.astype(np.float64) - untiled).mean(axis=(0, 1, 4))


def step_across_seams(tiled: Video, untiled: Video, grid: TileGrid) -> float:
    """How much larger steps from cell to cell are across a seam than elsewhere; 1 where nothing is to be seen.

    Divided by the same for the untiled result, in which the network's own pattern is the only one.
    """
    return _step_ratio(tiled, grid) / _step_ratio(untiled, grid)


def _step_ratio(clip: Video, grid: TileGrid) -> float:
    across, elsewhere = [], []
    for axis, tiling in ((HEIGHT, grid.rows), (WIDTH, grid.columns)):
        steps = steps_along(clip, axis)
        at_seams = np.isin(np.arange(1, clip.shape[axis]), seams(tiling, clip.shape[axis]))
        across.append(steps[at_seams])
        elsewhere.append(steps[~at_seams])
    return float(np.concatenate(across).mean() / np.concatenate(elsewhere).mean())


def steps_along(clip: Video, axis: int) -> Float[np.ndarray, " n"]:
    """Mean absolute step from each cell along an axis to the next."""
    others = tuple(other for other in range(clip.ndim) if other != axis)
    return np.abs(np.diff(clip.astype(np.float64), axis=axis)).mean(axis=others)


def crop_at(difference: Video, grid: TileGrid, side: int) -> tuple[slice, slice]:
    """Rows and columns around the crossing of two seams where tiled and untiled differ most."""
    seen = np.abs(difference.astype(np.float64)).mean(axis=(0, 1, 4))
    crossings = [
        tuple(slice(start := min(max(at - side // 2, 0), size - side), start + side)
              for at, size in zip(place, seen.shape, strict=True))
        for place in product(*(seams(axis, size) for axis, size in zip((grid.rows, grid.columns), seen.shape,
                                                                       strict=True)))
    ]  # fmt: skip
    rows, columns = max(crossings, key=lambda crop: seen[crop].sum())
    return rows, columns
