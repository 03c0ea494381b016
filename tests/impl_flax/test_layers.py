"""Layers of the native backend: diffusers' arguments and tensors, what is compiled of them, and every activation."""

from __future__ import annotations

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import impl_flax
from impl_flax import layers
from impl_flax.convolution import linear
from impl_flax.layers import resize_latents
from twinvae import VAEConfig
from twinvae.bench.layers import drawn_tensors
from twinvae.jax.slabs import COLUMNS, ROWS, Slabs, fill, source_of
from twinvae.seeded import seeded_tensors
from twinvae.torch import reference

SMALL = VAEConfig(
    down_block_types=("CogVideoXDownBlock3D",) * 2,
    up_block_types=("CogVideoXUpBlock3D",) * 2,
    block_out_channels=(4, 8),
    norm_num_groups=2,
    latent_channels=3,
    layers_per_block=1,
)
CONVOLUTION = {"in_channels": 2, "out_channels": 3, "kernel_size": 1}


def arguments(layer: type) -> dict[str, object]:
    return {name: given.default for name, given in inspect.signature(layer.__init__).parameters.items()}


@pytest.mark.parametrize("name", impl_flax.LAYERS)
def test_a_layer_takes_diffusers_arguments_with_its_defaults(name):
    ours, theirs = arguments(impl_flax.LAYERS[name]), arguments(reference.LAYERS[name])
    assert list(ours.items()) == [(argument, theirs[argument]) for argument in theirs if argument in ours]


@pytest.mark.parametrize("quant", [False, True])
def test_every_tensor_of_diffusers_has_its_place(quant):
    config = SMALL.model_copy(update={"use_quant_conv": quant, "use_post_quant_conv": quant})
    tensors = seeded_tensors(config, 0)
    state = impl_flax.load(config, tensors, dtype="float32", jit=False, checkpoint="").state_dict()
    assert state.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(state[name], tensor)


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"weight": (3, 2, 1, 1, 1)}, "missing bias"),
        ({"weight": (3, 2, 1, 1, 1), "bias": (3,), "scale": (3,)}, "not in this architecture: scale"),
        ({"weight": (2, 3, 1, 1, 1), "bias": (3,)}, r"weight has shape \(2, 3, 1, 1, 1\), expected \(3, 2, 1, 1, 1\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tensors, words):
    given = {name: np.zeros(shape, np.float32) for name, shape in tensors.items()}
    with pytest.raises(ValueError, match=words):
        impl_flax.load_layer("CogVideoXSafeConv3d", CONVOLUTION, given, dtype="float32", jit=False)


@pytest.mark.parametrize(("dtype", "precise"), [("float32", True), ("bfloat16", False)])
def test_an_accelerator_is_asked_for_products_of_whole_float32_factors(dtype, precise):
    x, kernel, bias = (jnp.zeros(shape, dtype) for shape in ((2, 3), (3, 4), (4,)))
    assert ("precision = [HIGHEST, HIGHEST]" in jax.jit(linear).lower(x, kernel, bias).as_text()) == precise


@pytest.mark.parametrize(("size", "gathers"), [((2, 3, 4), False), ((4, 9, 4), False), ((2, 5, 4), True)])
def test_whole_number_repeats_of_latents_are_no_gathers(size, gathers):
    written = jax.make_jaxpr(lambda zq: resize_latents(zq, size))(jnp.zeros((1, 2, 3, 4, 1)))
    assert ("gather" in str(written)) == gathers


@pytest.mark.parametrize("axis", [ROWS, COLUMNS])
@pytest.mark.parametrize(
    ("size", "fit", "cells"),
    [
        (768, 17, 16), (480, 36, 32), (240, 72, 48),  # as many as divide the frame
        (776, 17, 16), (1000, 39, 32),  # nothing does, but for less than half of what fits
        (17, 5, 4), (17, 1, 1), (17, 0, 1),  # the rows of one latent, or a part of them
        (96, 49, 96), (96, 48, 48),
    ],
)  # fmt: skip
def test_slabs_are_equal_where_they_can_be_and_hold_whole_latents(axis, size, fit, cells):
    shape = [2, 3, 1, 1, 5]
    shape[axis] = size
    assert Slabs(fit * 60, axis).cells(tuple(shape), 2) == cells


@pytest.mark.parametrize(
    ("layer", "run", "row"),
    [
        # Two clips of three frames of 4 columns, 2 channels to 3. A causal convolution sees two frames more.
        (
            "CogVideoXCausalConv3d",
            lambda conv, x, slabs: conv.in_slabs(source_of(x, slabs.axis), None, slabs),
            2 * 5 * 8,
        ),
        ("CogVideoXSafeConv3d", lambda conv, x, slabs: conv.in_slabs(x, slabs), 2 * 3 * 8),
        ("CogVideoXUpsample3D", lambda upsample, x, slabs: upsample(x, slabs), 2 * 3 * 2 * 24),  # 2 rows, 8 columns
    ],
)
def test_a_slab_takes_the_bytes_that_it_may(layer, run, row, monkeypatch):
    taken = []

    def noted(out, size, cells, *args):
        taken.append(cells)
        return fill(out, size, cells, *args)

    monkeypatch.setattr(layers, "fill", noted)
    kernel = {"kernel_size": 1 if layer == "CogVideoXSafeConv3d" else 3}
    made = impl_flax.LAYERS[layer](2, 3, **kernel)
    jax.eval_shape(lambda x: run(made, x, Slabs(16 * row * x.dtype.itemsize)), jnp.zeros((2, 3, 64, 4, 2)))
    assert set(taken) == {16}


@pytest.mark.parametrize("axis", [ROWS, COLUMNS])
@pytest.mark.parametrize("size", [(5, 8, 12), (5, 7, 9), (4, 4, 6)])
@pytest.mark.parametrize(("first", "cells"), [(0, 4), (2, 2), (3, 1)])
def test_a_slab_of_a_norm_is_cut_from_the_whole(first, cells, size, axis):
    """Also where latents are repeated no whole number of times, which gathers them."""
    rng = np.random.default_rng(0)
    norm = impl_flax.LAYERS["CogVideoXSpatialNorm3D"](4, 3, 2)
    norm.conv_y.conv.kernel[...], norm.conv_b.conv.kernel[...] = rng.standard_normal((2, 1, 1, 1, 3, 4))
    f, zq = (jnp.asarray(rng.standard_normal(shape), "float32") for shape in ((1, *size, 4), (1, 2, 4, 6, 3)))
    expected = lax.slice_in_dim(norm(f, zq), first, first + cells, axis=axis)
    found = norm.in_slabs(f, zq, axis).at(first, cells, slice(0, size[0]))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("axis", [ROWS, COLUMNS])
@pytest.mark.parametrize("name", ["GroupNorm", "CogVideoXSpatialNorm3D"])
def test_a_slab_of_a_norm_in_bfloat16_is_rounded_as_often_as_the_whole(name, axis):
    rng = np.random.default_rng(0)
    norm = impl_flax.LAYERS["CogVideoXSpatialNorm3D"](4, 3, 2)
    norm.conv_y.conv.kernel[...], norm.conv_b.conv.kernel[...] = rng.standard_normal((2, 1, 1, 1, 3, 4))
    f, zq = (jnp.asarray(rng.standard_normal(shape), "bfloat16") for shape in ((1, 4, 8, 12, 4), (1, 2, 4, 6, 3)))
    norm.norm_layer.scale[...], norm.norm_layer.bias[...] = rng.standard_normal((2, 4))
    nnx.update(norm, jax.tree.map(lambda tensor: tensor.astype("bfloat16"), nnx.state(norm)))
    norm, given = (norm.norm_layer, (f,)) if name == "GroupNorm" else (norm, (f, zq))
    found = norm.in_slabs(*given, axis).at(2, 4, slice(0, 4))
    assert found.dtype == "bfloat16"
    np.testing.assert_array_equal(found, lax.slice_in_dim(norm(*given), 2, 6, axis=axis))


class InTime:
    """A device that shares time and is the first."""

    def earlier(self, last, frames, cache):
        return last

    def behind(self, earlier, now):
        return jnp.concatenate([earlier, now], axis=1)

    def kept(self, earlier, last, frames):
        return last


@pytest.mark.parametrize("shard", [None, InTime()], ids=["alone", "in time"])
def test_a_first_rounds_conv_cache_is_laid_out_as_it_is_handed_on_and_a_later_ones_as_it_came(shard, monkeypatch):
    conv = layers.CogVideoXCausalConv3d(2, 3, 3)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 3, 4, 5, 2)), "float32")
    monkeypatch.setattr(layers, "in_time", lambda: shard)

    def kept(cache):
        return conv.in_slabs(source_of(x, ROWS), cache, Slabs(400, ROWS))[1]

    first = kept(None)
    later = kept(first)
    monkeypatch.setattr(layers, "handed_on", lambda cache: -cache)
    np.testing.assert_array_equal(kept(None), -first)
    np.testing.assert_array_equal(kept(first), later)


@pytest.mark.parametrize("activation", ["mish", "gelu", "relu", "swish"])
def test_a_time_embedding_goes_through_the_activation_of_its_block(activation):
    init = {"in_channels": 2, "temb_channels": 3, "groups": 1, "non_linearity": activation}
    random = np.random.default_rng(0)
    tensors = drawn_tensors("CogVideoXResnetBlock3D", init, "float64", random)
    x, embedding = random.normal(size=(1, 2, 3, 4, 2)), 3 * random.normal(size=(1, 3))
    found, expected = (
        load_layer("CogVideoXResnetBlock3D", init, tensors, dtype="float64", jit=False)(x, temb=embedding)[0]
        for load_layer in (impl_flax.load_layer, reference.load_layer)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
