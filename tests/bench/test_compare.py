"""Comparisons by hand: what agrees is said to, and a planted fault is found at the part that has it."""

from __future__ import annotations

import numpy as np
import pytest
from jax import lax

from impl_flax.layers import CogVideoXCausalConv3d, CogVideoXUpsample3D
from twinvae import VAEConfig, VideoVAE
from twinvae.bench.compare import Comparison, Row, check_gradients, compare, compare_layers
from twinvae.registry import backend_module
from twinvae.seeded import seeded_tensors

CONV = {"in_channels": 5, "out_channels": 7, "kernel_size": 3}
CONFIG = VAEConfig(
    down_block_types=("CogVideoXDownBlock3D",) * 2,
    up_block_types=("CogVideoXUpBlock3D",) * 2,
    block_out_channels=(4, 8),
    norm_num_groups=2,
    latent_channels=3,
    layers_per_block=1,
)
VIDEO = np.random.default_rng(0).uniform(-1, 1, (1, 3, 4, 6, 3))


def loaded(backend: str, dtype: str = "float32") -> VideoVAE:
    tensors = seeded_tensors(CONFIG, 0)
    return backend_module(backend).load(CONFIG, tensors, dtype=dtype, jit=False, checkpoint="")


def test_the_first_block_of_a_backend_that_departs_is_named(monkeypatch):
    reference = loaded("torch")
    assert compare(loaded("flax"), reference, VIDEO).first is None
    larger = CogVideoXUpsample3D.larger
    monkeypatch.setattr(CogVideoXUpsample3D, "larger", lambda self, x: 1.001 * larger(self, x))
    found = compare(loaded("flax"), reference, VIDEO)
    assert found.first.part == "decoder.up_blocks.0.upsamplers.0"
    assert found.first.relative_l2 == pytest.approx(1e-3, rel=0.1)
    assert "decoder.up_blocks.0.upsamplers.0 is the first to depart (relative_l2 over 1e-05)" in str(found)
    assert "departs" not in str(found).split("decoder.up_blocks.0.upsamplers.0")[0]


def test_a_layer_is_compared_in_a_first_and_in_a_later_frame_batch(monkeypatch):
    parts = ["first frame batch: output", "first frame batch: cache", "later frame batch: output",
             "later frame batch: cache"]  # fmt: skip
    found = compare_layers("flax", "torch", "CogVideoXCausalConv3d", CONV, (3, 5, 6))
    assert ([row.part for row in found.rows], found.first) == (parts, None)
    call = CogVideoXCausalConv3d.__call__

    def forgetful(self, x, conv_cache=None):
        return call(self, x)

    monkeypatch.setattr(CogVideoXCausalConv3d, "__call__", forgetful)
    found = compare_layers("flax", "torch", "CogVideoXCausalConv3d", CONV, (3, 5, 6))
    assert found.first.part == "later frame batch: output"


def test_a_part_that_is_missing_or_has_another_shape_departs_in_words():
    init = {"in_channels": 8, "temb_channels": 0, "groups": 4, "spatial_norm_dim": 3}
    found = compare_layers("flax", "torch", "CogVideoXResnetBlock3D", init, (4, 6, 8), (2, 3, 4))
    assert found.first is None
    rows = (Row("a", 0, 0, 0), Row("b", np.inf, np.inf, np.inf, "shape (1,), expected (2,)"), Row("c", 0, 0, np.nan))
    found = Comparison("two", 1e-5, rows)
    assert [row.part for row in found.departing] == ["b", "c"]
    assert "shape (1,), expected (2,)" in str(found)
    with pytest.raises(ValueError, match="unknown layer class 'Conv4d'"):
        compare_layers("flax", "torch", "Conv4d", {}, (1, 2, 3))


def test_a_wrong_gradient_is_found_in_the_half_that_has_it(monkeypatch):
    assert check_gradients(loaded("flax", "float64"), VIDEO).first is None
    parts = ("video", "decoder.up_blocks.1", "decoder.conv_in")
    call = CogVideoXUpsample3D.__call__

    def detached(self, x, slabs=None):  # the same numbers, and a gradient that stops here by half
        return (call(self, x, slabs) + lax.stop_gradient(call(self, x, slabs))) / 2

    monkeypatch.setattr(CogVideoXUpsample3D, "__call__", detached)
    vae = loaded("flax", "float64")
    found = check_gradients(vae, VIDEO, parts)
    assert [row.part for row in found.departing] == ["video", "decoder.conv_in"]
    with pytest.raises(ValueError, match=r"no tensor.s name begins with .decoder\.conv.: give"):
        check_gradients(vae, VIDEO, ["decoder.conv"])


def test_gradients_are_not_checked_in_a_dtype_that_rounds_their_differences_away():
    with pytest.raises(ValueError, match=r"in float32.*dtype=.float64."):
        check_gradients(loaded("flax"), VIDEO)
