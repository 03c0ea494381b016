"""What the device can do: the FLOP/s that a convolution and a matrix product reach in this run, and a call's FLOPs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import torch
from diffusers import AutoencoderKLCogVideoX
from torch.utils.flop_counter import FlopCounterMode

from suites.speed.cases import Group
from suites.speed.contenders import TORCH_DEVICE, full_precision, input_of
from twinvae.bench.timing import Run, time_in_turn


class Sizes(NamedTuple):
    """Of a square matrix; and images, channels, height and width of a 3x3 convolution."""

    matrix: int
    images: tuple[int, int, int, int]


ON_CPU, ON_ACCELERATOR = Sizes(1536, (1, 128, 96, 160)), Sizes(8192, (8, 512, 192, 340))
ROUNDS = 3


@cache
def peak(dtype: str) -> dict[str, float]:
    """FLOP/s of each way to compute a matrix product and a convolution, in turn; the peak is the largest.

    Of random numbers: an H200 multiplied zeros 13 % faster.
    """
    sizes = ON_CPU if jax.default_backend() == "cpu" else ON_ACCELERATOR
    work = {name: (flops, run) for name, flops, run in _products(sizes, dtype)}
    for _, run in work.values():
        run()
    timings = time_in_turn({name: run for name, (_, run) in work.items()}, ROUNDS)
    return {name: flops / min(timings.seconds[name]) for name, (flops, _) in work.items()}


def _products(sizes: Sizes, dtype: str) -> Iterator[tuple[str, float, Run]]:
    n, (batch, channels, height, width) = sizes.matrix, sizes.images
    matrix_flops, convolution_flops = 2.0 * n**3, 2.0 * 9 * batch * height * width * channels**2
    layout = ("NHWC", "HWIO", "NHWC")

    def in_jax(function: Callable[..., jax.Array], *shapes: tuple[int, ...]) -> Run:
        given = [jax.random.normal(jax.random.key(0), shape, dtype) for shape in shapes]
        function = jax.jit(function)
        return lambda: jax.block_until_ready(function(*given))

    def in_torch(function: Callable[..., torch.Tensor], *shapes: tuple[int, ...]) -> Run:
        given = [torch.randn(shape, dtype=getattr(torch, dtype), device=TORCH_DEVICE) for shape in shapes]

        def run() -> None:
            with torch.no_grad(), full_precision():
                function(*given)
            if TORCH_DEVICE == "cuda":
                torch.cuda.synchronize()

        return run

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=layout, precision=jax.lax.Precision.HIGHEST
        )

    def multiply(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

    images, kernel = (batch, height, width, channels), (3, 3, channels, channels)
    yield "matrix product, XLA", matrix_flops, in_jax(multiply, (n, n), (n, n))
    yield "matrix product, PyTorch", matrix_flops, in_torch(torch.matmul, (n, n), (n, n))
    yield "convolution, XLA", convolution_flops, in_jax(convolve, images, kernel)
    yield (
        "convolution, PyTorch",
        convolution_flops,
        in_torch(lambda x, k: torch.nn.functional.conv2d(x, k, padding=1), sizes.images, (channels, channels, 3, 3)),
    )


@cache
def nominal_flops(group: Group) -> float:
    """Floating-point operations of convolutions and products in diffusers' own model, untiled; nothing is computed."""
    shape = input_of(group, 0).shape
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = AutoencoderKLCogVideoX(**group.model.config.model_dump())
        clip = torch.empty(shape[0], shape[4], *shape[1:4])
        model.decode(clip) if group.operation == "decode" else model.encode(clip)
    return float(counter.get_total_flops())
