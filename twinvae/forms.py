"""Forms: ways to compute the same numbers of a frame batch in more or less memory."""

from __future__ import annotations

from typing import Literal

Form = Literal["whole", "row slabs", "column slabs"]
WHOLE: Form = "whole"  # every layer of the whole frame at once
ROW_SLABS: Form = "row slabs"  # normalised activations exist some rows at a time
COLUMN_SLABS: Form = "column slabs"  # the same by columns, for frames whose rows are on several devices
FORMS: tuple[Form, ...] = (WHOLE, ROW_SLABS, COLUMN_SLABS)  # the fastest first
