"""Gradients of the VAE by every tensor and by the video, against PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest

from suites.parity.bars import GRADIENTS
from twinvae.bench.bars import check_shapes, hold, measured
from twinvae.registry import REFERENCE

pytestmark = pytest.mark.needs("gradients", "batches")

VIDEO = (1, 8, 9, 18)
SAMPLE_BATCH = 4  # two frame batches on the way in: gradients flow through the conv cache


@pytest.mark.only(dtype=("float64",), once=True, large=False)
def test_gradients_match_the_reference(vae, load, model, dtype, options, record):
    rng = np.random.default_rng(options.seed)
    video = rng.uniform(-1, 1, (*VIDEO, model.config.in_channels))
    reference = load(REFERENCE, model, "eager", dtype)

    reference.num_sample_frames_batch_size = vae.num_sample_frames_batch_size = SAMPLE_BATCH
    cotangent = rng.standard_normal(reference(video).shape)
    expected, found = (side.gradients(video, cotangent) for side in (reference, vae))

    assert list(expected)[-1] == "video"
    assert len(expected) == len(reference.state_dict()) + 1
    check_shapes(found, expected)
    # The encoder's log-variance half has no part in the mode: its gradients are 0 on both sides, and stay in.
    hold(record, GRADIENTS, measured(GRADIENTS, found, expected), "gradients", operation="reconstruct")
