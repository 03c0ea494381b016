"""What programs are written with, by toy programs that hold one fault each."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from twinvae.bench import written
from twinvae.bench.xla_cost import operations, transpositions
from twinvae.jax.compiling import on_gpu

PRECISE = {"precision": "highest", "preferred_element_type": jnp.float32}


def text_of(call, dtype="float32", platform="tpu"):
    x, w = jax.ShapeDtypeStruct((2, 8, 8, 16), dtype), jax.ShapeDtypeStruct((3, 3, 16, 16), dtype)
    return written.function(call, platform, x, w)


def convolve(x, w, **settings):
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), **settings)


def multiply(x, w, **settings):
    return jnp.matmul(x, w[0, 0], **settings)


@pytest.mark.parametrize("platform", written.PLATFORMS)
@pytest.mark.parametrize("product", [convolve, multiply])
def test_precision_is_read_from_a_program_for_any_platform(product, platform):
    def fewer(**settings):
        text = text_of(lambda x, w: product(x, w, **settings), platform=platform)
        assert written.products(text) == written.products(text, "float32") == 1
        return written.products_in_fewer_bits(text, "float32")

    assert fewer(**PRECISE) == 0
    assert fewer() == fewer(precision="high") == 1
    narrow = text_of(lambda x, w: product(x.astype("bfloat16"), w.astype("bfloat16"), **PRECISE), platform=platform)
    assert written.products_in_fewer_bits(narrow, "float32") == 1
    assert written.products(narrow, "float32") == 0


@pytest.mark.parametrize("product", [convolve, multiply])
@pytest.mark.parametrize("bits", [("highest", "default"), ("default", "highest"), ("high", "highest")])
def test_one_operand_in_fewer_bits_is_a_product_in_fewer_bits(product, bits):
    text = text_of(lambda x, w: product(x, w, precision=bits, preferred_element_type=jnp.float32))
    assert written.products_in_fewer_bits(text, "float32") == 1


@pytest.mark.parametrize("product", [convolve, multiply])
def test_rounded_sums_are_fewer_bits_where_nobody_adds_up_in_more(product):
    rounded = text_of(product, "bfloat16")
    assert written.products_in_fewer_bits(rounded, "bfloat16") == 1
    assert written.products_in_fewer_bits(rounded, "bfloat16", rounded=True) == 0
    whole = text_of(lambda x, w: product(x, w, preferred_element_type=jnp.float32), "bfloat16")
    assert written.products_in_fewer_bits(whole, "bfloat16") == 0


def test_each_product_is_counted_by_itself():
    text = text_of(lambda x, w: convolve(convolve(x, w, **PRECISE), w) + multiply(x, w))
    assert (written.products(text), written.products_in_fewer_bits(text, "float32")) == (3, 2)


def test_sums_in_bfloat16_and_arrays_in_float32_are_seen():
    def mean(dtype):
        return text_of(lambda x, w: x.mean((1, 2), dtype=dtype), "bfloat16")

    assert (written.sums_in_bfloat16(mean("float32")), written.sums_in_bfloat16(mean("bfloat16"))) == (0, 1)
    assert (written.arrays_in(mean("float32"), "float32"), written.arrays_in(mean("bfloat16"), "float32")) == (1, 0)
    assert written.arrays_in(text_of(lambda x, w: (x.mean((1, 2)), w), "bfloat16"), "bfloat16") == 0
    assert written.arrays_in(text_of(lambda x, w: x + 1), "float32") >= 1


def test_a_transposition_of_an_activation_is_seen_and_one_of_a_bias_is_not():
    assert written.transpositions(text_of(lambda x, w: (jnp.moveaxis(x, -1, 1), w))) == 1
    assert written.transpositions(text_of(lambda x, w: x[0, 0].T)) == 0


@pytest.mark.parametrize(("platform", "told"), [("cpu", False), ("tpu", False), ("cuda", True)])
def test_what_is_traced_knows_its_platform(platform, told):
    seen = []
    text_of(lambda x, w: seen.append(on_gpu()) or x, platform=platform)
    assert seen == [told]


def test_operations_are_counted_while_the_block_runs_and_those_of_compiled_programs_are_not():
    x, negative = jnp.ones((2, 3)), jax.jit(jnp.negative)

    def call():
        jax.lax.transpose(jax.lax.transpose(x, (1, 0)), (1, 0))
        negative(x)

    call()
    with operations() as found:
        call()
    call()
    assert found == {"transpose": 2, "negative": 1}
    assert transpositions(found) == 2


def test_transpositions_are_counted_whatever_made_them():
    x = jnp.ones((2, 3, 4))

    def call():
        jnp.moveaxis(x, -1, 1)
        jnp.swapaxes(x, 0, 1)
        jnp.transpose(x)

    call()
    with operations() as found:
        call()
    assert transpositions(found) == 3
