"""Every number of frames: odd counts keep their first frame alone in time, the first frame batch takes the rest."""

from __future__ import annotations

import numpy as np
import pytest

from suites.parity.bars import FRAME_COUNTS
from twinvae.bench.bars import check_shapes, hold, measured, precise
from twinvae.bench.halves import fitting, given_of
from twinvae.registry import REFERENCE

# Frames, batch, height and width; the videos' sides are no multiples of 8. Two unlike items see all that a single one
# does. Of single items, those that the whole VAE's test has compiled programs for: they cost nothing more.
VIDEOS = [(frames, 2, 9, 18) for frames in range(1, 19)] + [(9, 1, 17, 26)]
LATENTS = [(frames, 2, 1, 2) for frames in range(1, 10)] + [(3, 1, 2, 3)]


@pytest.mark.only(once=True, large=False)
@pytest.mark.parametrize(("frames", "batch", "height", "width"), VIDEOS)
def test_encode_matches_the_reference_for_every_frame_count(
    frames, batch, height, width, load, vae, model, dtype, record, options
):  # fmt: skip
    rng = np.random.default_rng([frames, options.seed])
    batch, height, width = fitting(vae, batch, height, width)
    video = rng.uniform(-1, 1, (batch, frames, height, width, model.config.in_channels))
    _compare("encode", video, lambda vae: vae.encode(video).moments, load, vae, model, dtype, record)


@pytest.mark.only(once=True, large=False)
@pytest.mark.parametrize(("frames", "batch", "height", "width"), LATENTS)
def test_decode_matches_the_reference_for_every_frame_count(
    frames, batch, height, width, load, vae, model, dtype, record, options
):  # fmt: skip
    rng = np.random.default_rng([frames, options.seed])
    batch, *_ = fitting(vae, batch, height, width)
    latents = rng.standard_normal((batch, frames, height, width, model.config.latent_channels))
    _compare("decode", latents, lambda vae: vae.decode(latents), load, vae, model, dtype, record)


def _compare(operation, given, run, load, vae, model, dtype, record):
    found, expected = (run(side) for side in (vae, load(REFERENCE, model, "eager", precise(dtype))))
    in_torch = expected if dtype == precise(dtype) else run(load(REFERENCE, model, "eager", dtype))
    expected, in_torch = (given_of(vae, operation, output) for output in (expected, in_torch))
    found, expected, in_torch = ({"output": np.asarray(output)} for output in (found, expected, in_torch))
    check_shapes(found, expected)
    values = measured(FRAME_COUNTS[dtype], found, expected, in_torch)
    hold(
        record, FRAME_COUNTS[dtype], values, "frame counts", operation=operation, shape="x".join(map(str, given.shape))
    )
