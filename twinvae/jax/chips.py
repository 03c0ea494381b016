"""The chips that are known: what JAX and compilers call them, and how much memory a program may take."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple


class Chip(NamedTuple):
    """An accelerator.

    Args:
        device_kind: what JAX calls a device of it.
        memory: what people call its memory, in GB.
        usable_gib: what a program on one device may take: of a TPU, as its compiler says when one does not fit; None
            where the device itself says.
        topology: of a TPU, the name that libtpu gives a host with four chips.
        devices: on a chip; programs see them apart, each with its own part of the chip's memory.
    """

    kind: Literal["tpu", "gpu"]
    device_kind: str
    memory: int
    usable_gib: float | None = None
    topology: str = ""
    devices: int = 1

    @property
    def usable_bytes(self) -> int | None:
        return None if self.usable_gib is None else int(self.usable_gib * 2**30)


CHIPS = {
    "v5e": Chip("tpu", "TPU v5 lite", 16, 15.75, "v5e:2x2"),
    "v6e": Chip("tpu", "TPU v6 lite", 32, 31.25, "v6e:2x2"),
    "v5p": Chip("tpu", "TPU v5", 95, 95.74, "v5p:2x2x1"),
    "tpu7x": Chip("tpu", "TPU7x", 192, 94.75, "tpu7x:2x2x1", devices=2),
    "h100": Chip("gpu", "NVIDIA H100 80GB HBM3", 80),
    "h200": Chip("gpu", "NVIDIA H200", 141),
}
TPUS = {name: chip for name, chip in CHIPS.items() if chip.kind == "tpu"}


def platform_name(backend: str, device_kind: str) -> str:
    """Short name of an accelerator: ("gpu", "NVIDIA H200") is "gpu-h200", ("tpu", "TPU v6 lite") is "tpu-v6e".

    One that is not in the table is called by its vendor's name, without the vendor.
    """
    known = next((name for name, chip in CHIPS.items() if chip.device_kind == device_kind), None)
    name = known.removeprefix("tpu") if known else device_kind.lower()
    name = re.sub(r"\b(nvidia|amd|tpu|geforce|tesla|sxm\d*|pcie|hbm\w*|\d+gb)\b", "", name)
    return f"{backend}-{re.sub(r'[^a-z0-9]+', '-', name).strip('-')}"
