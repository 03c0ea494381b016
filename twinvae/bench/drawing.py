"""What all figures have in common: colours, style, and how arrays become colours and figures become files."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from twinvae.bench.records import Exhibit, RunData

# Mid-tones stand out from white and from black alike; the page shows through behind them.
INK = "#858585"
COLOURS = ("#2f8fd8", "#e07b1f", "#3aa36b", "#b565c9")
ALARM = "#e5484d"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "twinvae",
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "legend.framealpha": 0,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": INK,
    "grid.alpha": 0.25,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK
    ),
}


class Picture(NamedTuple):
    """A figure as a file of the page's folder."""

    file: str
    content: bytes
    caption: str


def load_arrays(data: RunData, exhibit: Exhibit) -> dict[str, np.ndarray] | None:
    """An exhibit's arrays; None where an interrupted run did not get to write them."""
    path = data.folder / exhibit.file
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def rgb(frame: np.ndarray) -> np.ndarray:
    """Values in [-1, 1] as colours in [0, 1]; NaN is black, a single channel grey."""
    colours = np.nan_to_num(np.clip((frame.astype(np.float64) + 1) / 2, 0, 1))
    return colours[..., 0] if colours.shape[-1] == 1 else colours[..., :3]


def svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90, metadata={"Software": None})
    return buffer.getvalue()
