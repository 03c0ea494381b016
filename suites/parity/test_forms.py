"""Every form of a backend, which ones there are being its own matter: the numbers of diffusers, cell by cell."""

from __future__ import annotations

import numpy as np
import pytest

from suites.parity.bars import FORMS
from twinvae.bench.bars import check_shapes, hold, measured
from twinvae.bench.halves import BATCH_SIZE, whole
from twinvae.forms import WHOLE
from twinvae.registry import REFERENCE

pytestmark = pytest.mark.needs("step")

# Two unlike clips, of two frame batches each, an odd one first; sides that slabs do not divide.
CLIPS = {"encode": (2, 17, 17, 26), "decode": (2, 5, 5, 7)}
# Frames that go through the network together so that, where they are fewest, one is: fewer than the conv cache holds.
SHORT = {"encode": 4, "decode": 1}
# Bytes of a slab: one row of every layer; several rows and a remainder of the largest, and whole frames of the others.
SLABS = {"single rows": 1, "several rows": 100_000}
CASES = [pytest.param(operation, size, None, id=f"{operation}-{size}") for operation in CLIPS for size in SLABS]
CASES += [pytest.param(one, "several rows", SHORT[one], id=f"{one}-short frame batches") for one in CLIPS]


@pytest.mark.only(mode=("jit",), dtype=("float64",), large=False)
@pytest.mark.parametrize(("operation", "size", "batch"), CASES)
def test_every_form_computes_what_diffusers_computes(
    operation, size, batch, vae, load, once, model, dtype, options, record
):
    rng = np.random.default_rng(options.seed)
    channels = model.config.in_channels if operation == "encode" else model.config.latent_channels
    clip = rng.uniform(-1, 1, (*CLIPS[operation], channels))

    def run(vae):
        return {"output": whole(vae, operation, clip, batch or getattr(vae, BATCH_SIZE[operation]))}

    forms = [form for form in vae.forms if form != WHOLE]
    if not forms:
        pytest.skip("this backend has one form alone, which every other test runs")
    expected = once((__name__, model.label, operation, batch), lambda: run(load(REFERENCE, model, "eager", dtype)))
    vae.slab_bytes = SLABS[size]
    shorter = f", frame batches of {batch}" if batch else ""
    for form in forms:
        vae.forms = (form,)
        found = run(vae)
        check_shapes(found, expected)
        hold(record, FORMS, measured(FORMS, found, expected), f"{form}, {size}{shorter}", operation=operation)
