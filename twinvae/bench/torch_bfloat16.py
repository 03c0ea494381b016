"""PyTorch's convolutions in bfloat16, as fast on every processor as on those that have instructions for them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class ProductsInFloat32(TorchDispatchMode):
    """While it is entered, a convolution in bfloat16 is one in float32, whose output is rounded.

    That is what a processor with bfloat16 instructions does: products of two bfloat16 numbers are exact in float32,
    sums are kept in it and rounded once. Without AVX-512, PyTorch gives the same numbers a hundred times slower (0.16
    against 17 GFLOP/s on a core), and the full architecture takes hours.
    """

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        if function is not torch.ops.aten.convolution.default or arguments[0].dtype != torch.bfloat16:
            return function(*arguments, **(named or {}))
        wide = (value.float() if isinstance(value, torch.Tensor) else value for value in arguments)
        return function(*wide, **(named or {})).bfloat16()
