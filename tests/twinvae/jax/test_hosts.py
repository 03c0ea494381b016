"""A checkpoint read once, on a single host; `suites/parity/test_devices.py` has two, of which one sees the files."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import twinvae
from twinvae.jax import hosts
from twinvae.jax.hosts import read_once, spans_hosts
from twinvae.jax.mesh import make_mesh


def test_what_is_sent_has_every_bit_in_whatever_pieces(monkeypatch):
    monkeypatch.setattr(hosts, "PIECE", 7)
    tensors = {"a": np.array([[-0.0, np.nan, 3]], np.float32), "b": np.array(2, ml_dtypes.bfloat16),
               "c": np.arange(6.0).reshape(2, 3).T}  # fmt: skip
    config, found = read_once(lambda: (twinvae.PRESETS["tiny"], tensors))
    assert config == twinvae.PRESETS["tiny"]
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert found[name].tobytes() == tensor.tobytes()


def test_where_no_host_can_read_it_each_says_what_it_found_and_what_is_wrong_is_said_by_who_read_it():
    def missing():
        raise FileNotFoundError("vae not found")

    def misfit():
        raise ValueError("conv_in is 3x3")

    with pytest.raises(OSError, match=r"no host can read this checkpoint, and one that can is enough. host 0: vae not"):
        read_once(missing)
    with pytest.raises(ValueError, match="host 0: conv_in is 3x3"):
        read_once(misfit)


def test_a_mesh_of_one_host_spans_no_others():
    assert not spans_hosts(make_mesh())
