"""What somebody's code sets of this process is set back, whatever raises."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable

import jax
import numpy as np
import pytest
import torch

from twinvae.isolation import undisturbed

# What changes a setting to what it is not, and what reads it.
SETTINGS: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "x64": (lambda: jax.config.update("jax_enable_x64", True), lambda: jax.config.jax_enable_x64),
    "matmul precision": (
        lambda: jax.config.update("jax_default_matmul_precision", "bfloat16"),
        lambda: jax.config.jax_default_matmul_precision,
    ),
    "debugging NaN": (lambda: jax.config.update("jax_debug_nans", True), lambda: jax.config.jax_debug_nans),
    "torch's default dtype": (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
    "torch's default device": (lambda: torch.set_default_device("meta"), torch.get_default_device),
    "torch's gradients": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
    "torch's threads": (lambda: torch.set_num_threads(torch.get_num_threads() + 1), torch.get_num_threads),
    "torch's matmul precision": (
        lambda: torch.set_float32_matmul_precision("medium"), torch.get_float32_matmul_precision,
    ),
    "torch's algorithms": (
        lambda: torch.use_deterministic_algorithms(True), torch.are_deterministic_algorithms_enabled,
    ),
    "torch's seed": (lambda: torch.manual_seed(1234567), lambda: torch.get_rng_state().tolist()),
    "NumPy's errors": (lambda: np.seterr(all="raise"), np.geterr),
    "NumPy's seed": (lambda: np.random.seed(1234567), lambda: np.random.get_state()[1].tolist()),
    "NumPy's printing": (lambda: np.set_printoptions(precision=2), np.get_printoptions),
    "the environment": (lambda: os.environ.update(XLA_FLAGS="--spoilt"), lambda: dict(os.environ)),
    "the folder": (lambda: os.chdir("/"), os.getcwd),
    "warnings": (lambda: warnings.simplefilter("error"), lambda: list(warnings.filters)),
    "the recursion limit": (lambda: sys.setrecursionlimit(54321), sys.getrecursionlimit),
    "what print writes to": (lambda: setattr(sys, "stdout", sys.__stderr__), lambda: sys.stdout),
}  # fmt: skip


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_is_as_before_when_the_block_ends_even_by_an_error(setting):
    change, read = SETTINGS[setting]
    with undisturbed():  # of what this test itself does
        before = read()
        with pytest.raises(SystemExit):
            _changed(change, read)
        assert read() == before


def _changed(change: Callable[[], object], read: Callable[[], object]) -> None:
    before = read()
    with undisturbed():
        change()
        assert read() != before, "nothing was changed"
        raise SystemExit


def test_what_was_set_before_stays_set():
    with undisturbed():
        os.environ["SPOILT"] = "no"
        jax.config.update("jax_default_matmul_precision", "float32")
        with undisturbed():
            pass
        assert os.environ["SPOILT"] == "no"
        assert jax.config.jax_default_matmul_precision == "float32"
