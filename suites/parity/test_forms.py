"""Every form of a backend, which ones there are being its own matter: the numbers of diffusers, cell by cell."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from suites.parity.bars import FORMS
from twinvae.bench.bars import check_shapes, hold, measured
from twinvae.bench.halves import BATCH_SIZE, whole
from twinvae.forms import WHOLE
from twinvae.registry import REFERENCE

pytestmark = pytest.mark.needs("step")

# Height and width: sides that slabs do not divide.
SIZES = {"encode": (17, 26), "decode": (5, 7)}
# Bytes of a slab: one row of every layer; several rows and a remainder of the largest, and whole frames of the others.
SLABS = {"single rows": 1, "several rows": 100_000}


class Case(NamedTuple):
    """Two unlike clips in one of the forms beside the whole: slabs take longest of all programs to compile.

    Args:
        frames: an odd frame batch first, and another where a conv cache is handed on.
        batch: frames that go through the network together, where they are not the backend's own number.
        form: its place among the backend's.
    """

    operation: str
    frames: int
    slab: str
    form: int
    batch: int | None = None


# Short batches have, where they are fewest, one frame: fewer than the conv cache holds, whose order a third one reads.
CASES = {
    "encode-single rows": Case("encode", 9, "single rows", form=0),
    "encode-several rows": Case("encode", 17, "several rows", form=-1),
    "encode-short frame batches": Case("encode", 13, "several rows", form=0, batch=4),
    "decode-single rows": Case("decode", 3, "single rows", form=0),
    "decode-several rows": Case("decode", 5, "several rows", form=-1),
    "decode-short frame batches": Case("decode", 3, "several rows", form=0, batch=1),
}


@pytest.mark.only(mode=("jit",), dtype=("float64",), large=False)
@pytest.mark.parametrize("name", CASES)
def test_every_form_computes_what_diffusers_computes(name, vae, load, once, model, dtype, options, record):
    operation, frames, slab, number, batch = CASES[name]
    channels = model.config.in_channels if operation == "encode" else model.config.latent_channels
    clip = np.random.default_rng(options.seed).uniform(-1, 1, (2, frames, *SIZES[operation], channels))

    def run(vae):
        return {"output": whole(vae, operation, clip, batch or getattr(vae, BATCH_SIZE[operation]))}

    forms = [form for form in vae.forms if form != WHOLE]
    if not forms:
        pytest.skip("this backend has one form alone, which every other test runs")
    expected = once((__name__, model.label, name), lambda: run(load(REFERENCE, model, "eager", dtype)))
    vae.slab_bytes, vae.forms = SLABS[slab], (forms[number],)
    found = run(vae)
    check_shapes(found, expected)
    shorter = f", frame batches of {batch}" if batch else ""
    case = f"{forms[number]}, {slab}{shorter}"
    hold(record, FORMS, measured(FORMS, found, expected), case, operation=operation)
