"""Convolutions as this backend lowers them: how often they are rounded, and how large their slabs are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

from impl_torchax import lowerings, token_lowerings
from twinvae.jax.slabs import COLUMNS, ROWS, Slabs, fill

KERNELS = [(1, 1, 1), (3, 3, 3), (1, 1), (3, 3)]


def pads_of(kernel):
    """As much as keeps height and width; frames are the conv cache's to add."""
    return [*[0] * (len(kernel) - 2), *(side // 2 for side in kernel[-2:])]


def convolved(x, kernel, bias, slabs):
    pads = pads_of(kernel.shape[2:])
    ones = [1] * len(pads)
    with lowerings.convolving_in(slabs):
        return lowerings.convolution(x, kernel, bias, ones, pads, ones, False, [0] * len(pads), 1)


@pytest.mark.parametrize(
    ("name", "shapes", "options"),
    [("linear", [(64, 32), (48, 32), (48,)], ()), ("layer_norm", [(64, 32), (32,), (32,)], ((32,),)),
     ("gelu", [(64, 32)], ())],
)  # fmt: skip
def test_an_operator_of_transformers_in_bfloat16_is_rounded_as_often_as_torch_rounds_it(name, shapes, options):
    draws = [np.random.default_rng(index).normal(size=shape) for index, shape in enumerate(shapes)]
    inputs = [torch.from_numpy(draw).bfloat16() for draw in draws]
    x, *rest = (jnp.asarray(one.float().numpy(), "bfloat16") for one in inputs)
    of_torch, found = getattr(torch.nn.functional, name), getattr(token_lowerings, name)(x, *options, *rest)
    exact = of_torch(inputs[0].double(), *options, *(one.double() for one in inputs[1:])).numpy()
    own = of_torch(inputs[0], *options, *inputs[1:]).double().numpy()
    ours, theirs = (np.abs(each - exact).mean() for each in (np.asarray(found, np.float64), own))
    assert ours <= 1.02 * theirs


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
@pytest.mark.parametrize("slabs", [None, Slabs(1, ROWS), Slabs(400, COLUMNS)], ids=["whole", "rows", "columns"])
def test_a_convolution_in_bfloat16_is_rounded_once_with_its_bias(kernel, slabs):
    """Of whole numbers, whose sums float32 holds; the bias takes from them most of what they are."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 16, (1, 4, *(3, 5, 7)[-len(kernel) :]))
    weight, bias = rng.integers(0, 128, (3, 4, *kernel)), np.array([-1024, 768, -512])
    convolve = {2: torch.conv2d, 3: torch.conv3d}[len(kernel)]
    exact = convolve(*(torch.from_numpy(part).double() for part in (x, weight, bias)), padding=pads_of(kernel))
    found = convolved(*(jnp.asarray(part, "bfloat16") for part in (x, weight, bias)), slabs)
    np.testing.assert_array_equal(found, exact.numpy().astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("sides", [(64, 24), (24, 64)], ids=["high", "wide"])
@pytest.mark.parametrize("axis", [ROWS, COLUMNS])
@pytest.mark.parametrize("clips", [(2,), (2, 3)], ids=["2-D", "3-D"])
def test_a_slab_takes_the_bytes_that_it_may(clips, axis, sides, monkeypatch):
    batch, *frames = clips
    line = 5 * int(np.prod(clips)) * sides[ROWS + COLUMNS - axis - 2]  # values in a row, or in a column
    taken = []

    def noted(out, size, cells, along, run):
        taken.append((size, cells, along))
        return fill(out, size, cells, along, run)

    monkeypatch.setattr(lowerings, "fill", noted)
    x = jax.ShapeDtypeStruct((batch, 5, *frames, *sides), "float32")
    kernel = jax.ShapeDtypeStruct((6, 5, *[3] * (len(frames) + 2)), "float32")
    slabs = Slabs(8 * line * x.dtype.itemsize, axis)
    jax.eval_shape(lambda x, kernel: convolved(x, kernel, None, slabs), x, kernel)
    assert taken == [(sides[axis - 2], 8, axis - 1 + len(frames))]
