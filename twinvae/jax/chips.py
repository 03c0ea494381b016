"""The chips that are known: what JAX and compilers call them, and how much memory a program may take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple


class Chip(NamedTuple):
    """An accelerator.

    Args:
        device_kind: what JAX calls a device of it.
        memory: what people call its memory, in GB.
        usable_gib: what a program on one device may take: of a TPU, as its compiler says when one does not fit; of a
            GPU, the three quarters of its memory that JAX takes where nothing else is set.
        topology: of a TPU, the name that libtpu gives a host with four chips.
        devices: on a chip; programs see them apart, each with its own part of the chip's memory.
        bandwidth: of its memory, in TB/s; rates: of products without sparsity, in TFLOP/s by dtype, of float32 without
            TF32; link: to a neighbour, in GB/s one way. As the vendor publishes them, of the whole chip.
    """

    kind: Literal["tpu", "gpu"]
    device_kind: str
    memory: int
    usable_gib: float
    topology: str = ""
    devices: int = 1
    bandwidth: float = 0.0
    rates: Mapping[str, float] = {}
    link: float = 0.0

    @property
    def usable_bytes(self) -> int:
        return int(self.usable_gib * 2**30)


A100 = {"bfloat16": 312, "float32": 19.5}
HOPPER = {"bfloat16": 989.4, "float32": 66.9}
# A TPU's links are a chip's published bandwidth to all neighbours, over four of them (six in three dimensions) and two
# directions; a card's, its NVLink one way (an L4's, its PCIe).
CHIPS = {
    "v5e": Chip("tpu", "TPU v5 lite", 16, 15.75, "v5e:2x2", 1, 0.819, {"bfloat16": 197}, 50),
    "v6e": Chip("tpu", "TPU v6 lite", 32, 31.25, "v6e:2x2", 1, 1.64, {"bfloat16": 918}, 100),
    "v5p": Chip("tpu", "TPU v5", 95, 95.74, "v5p:2x2x1", 1, 2.765, {"bfloat16": 459}, 100),
    "tpu7x": Chip("tpu", "TPU7x", 192, 94.75, "tpu7x:2x2x1", 2, 7.37, {"bfloat16": 2307}, 100),
    "l4": Chip("gpu", "NVIDIA L4", 24, 16.52, "", 1, 0.3, {"bfloat16": 121, "float32": 30.3}, 32),
    "a100-40": Chip("gpu", "NVIDIA A100-SXM4-40GB", 40, 29.54, "", 1, 1.555, A100, 300),
    "a100": Chip("gpu", "NVIDIA A100-SXM4-80GB", 80, 59.36, "", 1, 2.039, A100, 300),
    "h100": Chip("gpu", "NVIDIA H100 80GB HBM3", 80, 59.32, "", 1, 3.352, HOPPER, 450),
    "h200": Chip("gpu", "NVIDIA H200", 141, 104.85, "", 1, 4.8, HOPPER, 450),
}
TPUS = {name: chip for name, chip in CHIPS.items() if chip.kind == "tpu"}
GPUS = {name: chip for name, chip in CHIPS.items() if chip.kind == "gpu"}


def platform_name(backend: str, device_kind: str) -> str:
    """Short name of an accelerator: ("gpu", "NVIDIA H200") is "gpu-h200", ("tpu", "TPU v6 lite") is "tpu-v6e".

    One that is not in the table is called by its vendor's name, without the vendor.
    """
    known = next((name for name, chip in CHIPS.items() if chip.device_kind == device_kind), None)
    name = known.removeprefix("tpu") if known else device_kind.lower()
    name = re.sub(r"\b(nvidia|amd|tpu|geforce|tesla|sxm\d*|pcie|hbm\w*|\d+gb)\b", "", name)
    return f"{backend}-{re.sub(r'[^a-z0-9]+', '-', name).strip('-')}"
