"""Inside one run of the whole model: the error after each block, so that a report shows where it is born."""

from __future__ import annotations

import numpy as np
import pytest

from suites.parity.bars import BLOCK
from twinvae.bench.bars import check_dtypes, check_shapes, drawn, hold, measured, precise
from twinvae.bench.torch_bfloat16 import ProductsInFloat32
from twinvae.registry import REFERENCE

pytestmark = pytest.mark.needs("activations")

# Frames, height and width of the clip. A small model is run op by op (or as was chosen), which compiles nothing
# that the whole VAE's test has not compiled; the full architecture, where it is asked for, as one program whose
# activations fit in memory.
SMALL, LARGE = (9, 17, 26), (9, 48, 80)
TWO_BATCHES = (17, 17, 26)


@pytest.mark.clip_frames(9)
@pytest.mark.only(small={"mode": "first"}, large={"dtype": ("float32",)}, asked=True)
@pytest.mark.parametrize("operation", ["encode", "decode"])
def test_no_block_departs_from_the_reference(operation, load, vae, model, dtype, clip, record):
    video = clip(*LARGE) if model.is_large else drawn(clip(*SMALL), dtype)
    reference = load(REFERENCE, model, "eager", precise(dtype))
    given = video if operation == "encode" else reference.encode(video).mean
    expected = reference.activations(operation, given)
    found = {name: np.asarray(activation) for name, activation in vae.activations(operation, given).items()}
    in_torch = expected
    if dtype != precise(dtype):
        with ProductsInFloat32():
            in_torch = load(REFERENCE, model, "eager", dtype).activations(operation, given)
    assert list(found) == list(expected), "blocks are missing, surplus or out of order"
    check_shapes(found, expected)
    check_dtypes(found, dtype)

    bars = BLOCK[dtype]
    for order, layer in enumerate(expected):
        values = measured(bars, *({layer: side[layer]} for side in (found, expected, in_torch)))
        where = {"operation": operation, "shape": "x".join(map(str, given.shape)), "layer": layer, "order": order}
        hold(record, bars, values, "block after block", **where)


@pytest.mark.clip_frames(17)
@pytest.mark.only(mode=("jit",), dtype=("float64",), large=False)
@pytest.mark.parametrize("operation", ["encode", "decode"])
def test_blocks_of_a_later_frame_batch_see_the_one_before(operation, load, vae, model, dtype, clip, record):
    video = clip(*TWO_BATCHES)
    reference = load(REFERENCE, model, "eager", dtype)
    given = video if operation == "encode" else reference.encode(video).mean
    expected = reference.activations(operation, given)
    found = {name: np.asarray(activation) for name, activation in vae.activations(operation, given).items()}
    check_shapes(found, expected)
    shape = "x".join(map(str, given.shape))
    hold(record, BLOCK[dtype], measured(BLOCK[dtype], found, expected), "blocks, two frame batches",
         operation=operation, shape=shape)  # fmt: skip
