"""The clips that parity's bars are sound for."""

from __future__ import annotations

import numpy as np
import pytest

from twinvae.bench.bars import drawn
from twinvae.bench.clips import synthetic_clip


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_precise_errors_are_measured_on_the_clip_alone(dtype):
    clip = synthetic_clip(2, 17, 26)
    np.testing.assert_array_equal(drawn(clip, dtype), clip)


def test_bfloat16_errors_are_measured_on_sixteen_different_clips_of_the_same_pixels():
    clip = synthetic_clip(2, 17, 26)
    clips = drawn(clip, "bfloat16")
    assert clips.shape == (16, 2, 17, 26, 3)
    np.testing.assert_array_equal(clips[:1], clip)
    np.testing.assert_array_equal(clips[1:, :, :, 1:], clips[:-1, :, :, :-1])
    np.testing.assert_array_equal(clips[1:, :, :, 0], clips[:-1, :, :, -1])
    assert len(np.unique(clips.reshape(16, -1), axis=0)) == 16
