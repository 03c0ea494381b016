"""Plan: what a call will do under a memory budget, and what it needs."""

from __future__ import annotations

from dataclasses import dataclass

from twinvae.forms import Form
from twinvae.sizes import shown
from twinvae.tiles import Operation, TileGrid


@dataclass(frozen=True)
class Plan:
    """What a call will do, and what it needs.

    Attributes:
        operation, shape: of the call; the shape is that of its input.
        form: how a frame batch is computed (see `twinvae.forms`).
        grid: diffusers' overlapping tiles that frames are cut into; None where they are not.
        exact: whether the numbers are those of the call as it was asked for: not where only the budget makes tiles.
        peak_bytes: predicted, with the parameters, the clip and what comes out of it; None where nothing was
            compiled, because the device has much more than any form could need.
        budget_bytes: None where it is not known what the device has.
        considered: peaks of the forms that were tried, the fastest first; None where one does not even compile.
    """

    operation: Operation
    shape: tuple[int, ...]
    form: Form
    grid: TileGrid | None
    exact: bool
    peak_bytes: int | None
    budget_bytes: int | None
    considered: tuple[tuple[str, int | None], ...] = ()

    def __str__(self) -> str:
        needs = "far below the budget" if self.peak_bytes is None else f"{shown(self.peak_bytes)} predicted"
        budget = "" if self.budget_bytes is None else f", budget {shown(self.budget_bytes)}"
        tried = "; ".join(f"{form}: {shown(peak) if peak else 'does not fit the device'}"
                          for form, peak in self.considered)  # fmt: skip
        tiled = " in tiles" if self.grid else ""
        return f"{self.operation} {list(self.shape)}: {self.form}{tiled}, {needs}{budget}" + (
            f" ({tried})" if tried else ""
        )
