"""Posterior, beside what the parity suite asks of it: it cannot be changed."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from twinvae import Posterior


def test_a_posterior_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        Posterior(np.zeros((1, 1, 1, 1, 2))).moments = np.ones((1, 1, 1, 1, 2))
