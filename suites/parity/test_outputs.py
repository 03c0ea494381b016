"""Outputs that a port has made elsewhere, of the cases that `twinvae export-cases` wrote: what diffusers computes."""

from __future__ import annotations

import numpy as np
import pytest

from twinvae.bench.bars import WHOLE, check_dtypes, check_shapes, hold, measured
from twinvae.registry import REFERENCE

PICTURE_METRICS = ("psnr", "ssim")


def given(options):
    """A row for every case of --outputs."""
    return [{"case": case.name} for case in options.outputs.cases] if options.outputs else []


@pytest.mark.cases("case", given)
def test_outputs_made_elsewhere_are_those_of_diffusers(case, options, load, record):
    outputs = options.outputs
    if case not in outputs.arrays:
        pytest.fail(f"there is no array {case!r} among the outputs", pytrace=False)
    asked = next(one for one in outputs.cases if one.name == case)
    reference = load(REFERENCE, outputs.model, "eager", "float64")
    found = outputs.arrays[case]
    encodes = asked.operation == "encode"
    expected = reference.encode(asked.clip).moments if encodes else reference.decode(asked.clip)
    if encodes and found.shape[-1] == outputs.model.config.latent_channels:
        expected = expected[..., : found.shape[-1]]
    sides = {"output": found}, {"output": np.asarray(expected)}
    check_shapes(*sides)
    check_dtypes(sides[0], outputs.dtype)
    bars = {name: bar for name, bar in WHOLE[outputs.dtype].items() if not encodes or name not in PICTURE_METRICS}
    hold(
        record, bars, measured(bars, *sides), "outputs made elsewhere", operation=asked.operation,
        backend=outputs.label, dtype=outputs.dtype, preset=outputs.model.label,
        shape="x".join(map(str, asked.clip.shape)),
    )  # fmt: skip
