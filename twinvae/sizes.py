"""Sizes in memory, as people write and read them."""

from __future__ import annotations

import re

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
         "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip
GIB = 2**30


def parse_size(size: str | int) -> int:
    """Bytes of a size such as "16GiB", "15.75 GiB", "16 GB" or 16_000_000_000.

    Raises:
        ValueError: not a size, or not above zero.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        found = size
    else:
        match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([KMGT]?I?B)?\s*", str(size), re.IGNORECASE)
        found = int(float(match[1]) * UNITS[(match[2] or "B").upper()]) if match else 0
    if found <= 0:
        raise ValueError(f"{size!r} is no size in memory: write it as '16GiB', '15.75 GiB' or '16 GB', or give bytes")
    return found


def shown(size: float) -> str:
    """A number of bytes as people read it."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"
