"""In how many bits programs multiply and add, as they are written for each platform: what no result on a CPU shows."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import twinvae
from suites.parity.bars import PRECISION
from suites.parity.test_layers import LAYERS
from twinvae.bench.bars import hold
from twinvae.bench.layers import drawn_tensors, input_channels, latent_channels
from twinvae.bench.written import (
    PLATFORMS,
    arrays_in,
    frame_batch,
    function,
    products,
    products_in_fewer_bits,
    sums_in_bfloat16,
    transpositions,
)
from twinvae.forms import ROW_SLABS, WHOLE

pytestmark = [pytest.mark.only(mode=("jit",))]

FRAMES, CELLS = {"encode": 8, "decode": 2}, (4, 6)  # a frame batch, and its latents' height and width
# Layers that the whole of a small model has not: a width for which convolutions are made of blocks, a time embedding.
ALONE = ("causal conv, wide, odd", "resnet, encoding, time embedding")


@pytest.mark.needs("step")
@pytest.mark.only(dtype=("float32", "bfloat16"))
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("operation", FRAMES)
def test_a_program_multiplies_and_adds_in_all_bits_on_every_platform(
    operation, platform, vae, backend, mode, dtype, model, record
):
    config = model.config
    scale, channels = (config.spatial_compression, config.in_channels) if operation == "encode" else (
        1, config.latent_channels)  # fmt: skip
    shape = (1, FRAMES[operation], *(scale * cells for cells in CELLS), channels)
    in_slabs = (platform, operation, dtype) == ("tpu", "decode", "float32") and ROW_SLABS in vae.forms
    slabs = [ROW_SLABS] if in_slabs else []
    for form in (WHOLE, *slabs):
        text = frame_batch(vae, operation, shape, platform, form)
        _hold(record, text, ", ".join([f"written for {platform}", *slabs[: form != WHOLE]]), platform, dtype,
              operation=operation)  # fmt: skip


@pytest.mark.needs("layers")
@pytest.mark.only(dtype=("float32",))
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("case", ALONE)
def test_a_layer_multiplies_and_adds_in_all_bits_on_every_platform(case, platform, backend, mode, dtype, record):
    spec = LAYERS[case]
    tensors = drawn_tensors(spec.layer, spec.init, dtype, np.random.default_rng(0))
    shapes = {
        "x": (spec.batch, *spec.x, input_channels(spec.init)),
        "zq": spec.zq and (spec.batch, *spec.zq, latent_channels(spec.init)),
        "temb": spec.temb and (spec.batch, spec.temb),
    }
    given = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes.items() if shape}
    layer = twinvae.load_layer(backend, spec.layer, spec.init, tensors, dtype=dtype, jit=True)
    text = function(lambda given: layer(**given)[0], platform, given)
    _hold(record, text, f"written for {platform}, {case}", platform, dtype)


def _hold(record, text, case, platform, dtype, **fields):
    assert products(text), "no product was seen in the program: the counts say nothing"
    counts = {
        "products in fewer bits": products_in_fewer_bits(text, dtype, rounded=platform == "cuda"),
        "products as written": products(text),
        "transpositions as written": transpositions(text),
    }
    if dtype == "bfloat16":
        counts |= {"sums in bfloat16": sums_in_bfloat16(text), "arrays in float32": arrays_in(text, "float32")}
    hold(record, PRECISION, counts, case, **fields)
