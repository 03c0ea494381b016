"""Flicker, on clips of which it is known."""

from __future__ import annotations

import numpy as np
import pytest

from suites.frames.flicker import at_edges, flicker, quality


def test_flicker_is_what_changes_in_the_error_alone():
    rng = np.random.default_rng(0)
    original = rng.uniform(-1, 1, (1, 5, 4, 6, 3))
    error = np.array([0, 0.25, 0.25, -0.25, 0.0])[:, None, None, None]
    found = flicker(original + error, original)
    np.testing.assert_allclose(found, [0.25, 0, 0.5, 0.25], atol=1e-12)
    assert at_edges(found, [3]) == pytest.approx(0.5 / (0.5 / 3))
    np.testing.assert_allclose(quality(original + 0.02, original), 40.0, rtol=1e-6)
