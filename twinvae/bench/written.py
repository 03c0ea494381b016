"""Programs as they are written, before a compiler changes them: for any platform, without its devices."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from twinvae import arrays
from twinvae.forms import WHOLE, Form
from twinvae.interface import Operation
from twinvae.jax.backend import JaxVideoVAE
from twinvae.jax.compiling import tracing_for

PLATFORMS = ("cpu", "tpu", "cuda")
SMALL = 1024  # elements; statistics and biases have fewer, activations more
_BITS = {"f64": 64, "f32": 32, "bf16": 16, "f16": 16}
_OF_DTYPE = {"float64": "f64", "float32": "f32", "bfloat16": "bf16"}
_TYPE = r"tensor<(?:\d+x)*(\w+)>"
# `stablehlo.convolution(%1, %2) ... precision_config = [#stablehlo<precision HIGHEST>, ...]} : (TYPE, TYPE) -> TYPE`,
# `stablehlo.dot_general %1, %2, ... precision = [HIGHEST, HIGHEST] : (TYPE, TYPE) -> TYPE`.
_PRODUCT = re.compile(rf"stablehlo\.(?:convolution|dot_general)\b([^\n]*) : \({_TYPE}, {_TYPE}\) -> {_TYPE}")
_SUM = re.compile(rf"stablehlo\.reduce\b[^\n]*stablehlo\.add\b[^\n]* -> {_TYPE}")
_RESULT = re.compile(r"= stablehlo\.\w+\b[^\n]*tensor<((?:\d+x)+)(\w+)>$", re.MULTILINE)


def frame_batch(
    vae: JaxVideoVAE, operation: Operation, shape: tuple[int, ...], platform: str, form: Form = WHOLE
) -> str:
    """The StableHLO text of the program of a later frame batch of `shape`; nothing is compiled or run."""
    dtype = arrays.DTYPES[vae.dtype]
    step = vae.compiled_step(operation, form, False, True, platform)
    with arrays.dtype_scope(dtype), tracing_for(platform):
        params = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), vae.params)
        frames = jax.ShapeDtypeStruct(shape, dtype)
        _, cache = jax.eval_shape(partial(vae.step, operation), params, frames, None)
        return step.trace(params, frames, cache).lower(lowering_platforms=(platform,)).as_text()


def function(call: Callable[..., Any], platform: str, *given: Any) -> str:
    """The same of any function of arrays, which must not have been traced for another platform before."""
    with tracing_for(platform):
        return jax.jit(lambda *given: call(*given)).trace(*given).lower(lowering_platforms=(platform,)).as_text()


def products_in_fewer_bits(text: str, dtype: str, rounded: bool = False) -> int:
    """Convolutions and matrix products that lose digits which a program of `dtype` has, on some device if not on all.

    Their operands are of a narrower type, or are float32 that accelerators may multiply in bfloat16 or TF32, since not
    the highest precision is asked for; or their sums are kept in less than float32.

    Args:
        rounded: whether sums come out rounded to `dtype`, as cuDNN gives them, which adds up in float32.
    """
    bits = _BITS[_OF_DTYPE[dtype]]
    least = bits if rounded else max(bits, 32)
    count = 0
    for settings, left, right, sums in _PRODUCT.findall(text):
        in_full = bits < 32 or settings.count("HIGHEST") == 2
        wide = min(_BITS.get(left, 0), _BITS.get(right, 0)) >= bits and _BITS.get(sums, 0) >= least
        count += not (in_full and wide)
    return count


def products(text: str, dtype: str | None = None) -> int:
    """Convolutions and matrix products, or those of operands of a type."""
    found = _PRODUCT.findall(text)
    return len(found) if dtype is None else sum(_OF_DTYPE[dtype] in (left, right) for _, left, right, _ in found)


def sums_in_bfloat16(text: str) -> int:
    """Reductions, such as those of means, that are added up in bfloat16."""
    return _SUM.findall(text).count("bf16")


def arrays_in(text: str, dtype: str) -> int:
    """Operations that give an array of a type and of an activation's size."""
    return sum(kind == _OF_DTYPE[dtype] and _elements(shape) >= SMALL for shape, kind in _RESULT.findall(text))


def transpositions(text: str) -> int:
    """Transpositions of what is as large as an activation."""
    return sum(
        "stablehlo.transpose" in found.group() and _elements(found.group(1)) >= SMALL
        for found in _RESULT.finditer(text)
    )


def _elements(shape: str) -> int:
    count = 1
    for size in shape.split("x")[:-1]:
        count *= int(size)
    return count
