"""Every form of a backend, which ones there are being its own matter: the numbers of diffusers, cell by cell."""

from __future__ import annotations

import numpy as np
import pytest

from suites.parity.bars import WHOLE, check_shapes, hold, measured
from twinvae.forms import WHOLE as WHOLE_FRAMES
from twinvae.registry import REFERENCE

# Two unlike clips, of two frame batches each, an odd one first; sides that slabs do not divide.
CLIPS = {"encode": (2, 17, 17, 26), "decode": (2, 5, 5, 7)}
# Bytes of a slab: one row of every layer; several rows and a remainder of the largest, and whole frames of the others.
SLABS = {"single rows": 1, "several rows": 100_000}
METRICS = ("max_abs", "relative_l2")
CASES = [(operation, size) for operation in CLIPS for size in SLABS]


@pytest.mark.only(mode=("jit",), dtype=("float64",), large=False)
@pytest.mark.parametrize(("operation", "size"), CASES)
def test_every_form_computes_what_diffusers_computes(operation, size, vae, load, once, model, dtype, options, record):
    rng = np.random.default_rng(options.seed)
    channels = model.config.in_channels if operation == "encode" else model.config.latent_channels
    clip = rng.uniform(-1, 1, (*CLIPS[operation], channels))

    def run(vae):
        return {"output": np.asarray(vae.encode(clip).moments if operation == "encode" else vae.decode(clip))}

    forms = [form for form in vae.forms if form != WHOLE_FRAMES]
    if not forms:
        pytest.skip("this backend has one form alone, which every other test runs")
    expected = once((__name__, model.label, operation), lambda: run(load(REFERENCE, model, "eager", dtype)))
    vae.slab_bytes = SLABS[size]
    bars = {metric: WHOLE[dtype][metric] for metric in METRICS}
    for form in forms:
        vae.forms = (form,)
        found = run(vae)
        check_shapes(found, expected)
        hold(record, bars, measured(bars, found, expected), f"{form}, {size}", operation=operation)
