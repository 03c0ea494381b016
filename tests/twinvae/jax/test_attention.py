"""Attention: exact for any number of tokens, in every form. The kernel for TPUs runs interpreted, step by step.

`python -m tests.twinvae.jax.test_attention` tries every number from 1 to 300.
"""

from __future__ import annotations

import re
from math import ceil
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

from twinvae.jax import attention as module
from twinvae.jax.attention import LANES, Blocks, attention, blocks_for, exact, flash, prepared, products
from twinvae.jax.compiling import tracing_for

PAST = 5  # keys past the end, which hold NaN
SMALL = Blocks(128, 256, 128)  # with which a few hundred tokens are several blocks, and parts of one
# Tokens at and beside every edge, each of a tile (128), of keys together and of a block (256).
LENGTHS = (1, 127, 129, 256, 257, 300)
FLOAT32 = 2e-6


def drawn(queries: int, keys: int, dtype: str = "float32", common: float = 0.0, seed: int = 0) -> list[jax.Array]:
    """Queries, keys and values; keys have a mean of about `common` in each channel, and all are NaN past the end."""
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((1, 2, count, 16)).astype(np.float32) for count in (queries, keys, keys))
    k += common * rng.standard_normal((1, 2, 1, 16)).astype(np.float32)
    filled = ((0, 0), (0, 0), (0, PAST), (0, 0))
    k, v = (np.pad(x, filled, constant_values=np.nan) for x in (k, v))
    return [jnp.asarray(x, dtype) for x in (q, k, v)]


def softmax(q: jax.Array, k: jax.Array, v: jax.Array) -> np.ndarray:
    """In NumPy's float64."""
    q, k, v = (np.asarray(x).astype(np.float64) for x in (q, k[:, :, :-PAST], v[:, :, :-PAST]))
    logits = np.einsum("bhqd,bhkd->bhqk", q, k) * q.shape[-1] ** -0.5
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return np.einsum("bhqk,bhkd->bhqd", shares / shares.sum(-1, keepdims=True), v)


def error(found: jax.Array, want: np.ndarray) -> float:
    return np.abs(np.asarray(found).astype(np.float64) - want).max()


def kernel_error(
    queries: int, keys: int, dtype: str = "float32", blocks: Blocks | None = SMALL, folded: bool = False
) -> float:
    q, k, v = drawn(queries, keys, dtype)
    want = softmax(q, k, v)
    if folded:
        with tracing_for("tpu"):
            q, k, folded = prepared(q, k, v)
    return error(flash(q, k, v, keys=keys, folded=folded, blocks=blocks, interpret=True), want)


def splash_error(tokens: int) -> float:
    """JAX's own kernel's, whose padding is masked by segments."""
    q, k, v = drawn(tokens, tokens, "bfloat16")
    want, padded = softmax(q, k, v), -(-tokens // 256) * 256
    q, k, v = (jnp.pad(x[0, :, :tokens], ((0, 0), (0, padded - tokens), (0, 0))) for x in (q, k, v))
    mask = splash_attention_mask.MultiHeadMask([splash_attention_mask.FullMask((padded, padded))] * 2)
    kernel = splash_attention_kernel.make_splash_mha(
        mask=mask, head_shards=1, q_seq_shards=1, interpret=True,
        block_sizes=splash_attention_kernel.BlockSizes(block_q=128, block_kv=256, block_kv_compute=128),
    )  # fmt: skip
    there = (jnp.arange(padded) >= tokens).astype(jnp.int32)
    segments = splash_attention_kernel.SegmentIds(q=there, kv=there)
    q = (q.astype(jnp.float32) * q.shape[-1] ** -0.5).astype(q.dtype)
    return error(kernel(q, k, v, segment_ids=segments)[None, :, :tokens], want)


@pytest.mark.parametrize("tokens", LENGTHS)
def test_the_kernel_is_exact_for_any_number_of_tokens_whatever_lies_past_the_end(tokens):
    assert kernel_error(tokens, tokens) <= FLOAT32


@pytest.mark.parametrize(("queries", "keys"), [(300, 130), (130, 257)])
def test_the_kernel_takes_other_numbers_of_queries_than_of_keys(queries, keys):
    assert kernel_error(queries, keys) <= FLOAT32


def test_the_kernel_takes_the_tables_blocks_and_queries_that_have_its_factor():
    assert kernel_error(300, 300, blocks=None, folded=True) <= FLOAT32


def test_queries_that_are_rounded_already_are_not_rounded_again():
    q, k, v = (x.astype(jnp.bfloat16) for x in drawn(8, 8))
    with tracing_for("tpu"):
        assert prepared(q, k, v)[2] is False
        assert np.array_equal(prepared(q, k, v)[0], q)
        wide, _, folded = prepared(q.astype(jnp.float32), k, v)
    assert (wide.dtype, folded) == (jnp.bfloat16, True)
    assert prepared(q.astype(jnp.float32), k, v)[2] is False  # of a CPU's form


def test_in_bfloat16_the_kernel_errs_no_more_than_jax_s_own():
    assert kernel_error(300, 300, "bfloat16") <= 1.2 * splash_error(300)


@pytest.mark.parametrize("centre", [False, True])
def test_the_exact_form_is_that_of_a_cpu_and_drops_what_is_past_the_end(centre):
    q, k, v = drawn(40, 33, common=3.0)
    assert error(attention(q, k, v, keys=33, centre=centre), softmax(q, k, v)) <= FLOAT32


def test_keys_that_have_much_in_common_lose_less_where_their_mean_is_taken_off_before_they_are_rounded():
    q, k, v = drawn(64, 64, common=8.0)
    want = softmax(q.astype(jnp.bfloat16), k, v.astype(jnp.bfloat16))
    q, v = q.astype(jnp.bfloat16), v.astype(jnp.bfloat16)
    plain, centred = (error(attention(q, k, v, keys=64, centre=centre), want) for centre in (False, True))
    assert centred < plain / 2
    rounded_first = error(attention(q, k.astype(jnp.bfloat16), v, keys=64, centre=True), want)
    assert centred < rounded_first / 2


def test_queries_in_parts_are_as_all_at_once():
    q, k, v = drawn(37, 20)
    q, k, v = q, k[:, :, :20], v[:, :, :20]
    whole = exact(q, k, v)
    with mock.patch.object(module, "LOGITS", 2 * 20 * 4 * 10):  # ten queries
        np.testing.assert_allclose(exact(q, k, v), whole, rtol=0, atol=1e-6)
        parts = str(jax.make_jaxpr(exact)(q, k, v))
    assert "f32[1,2,10,20]" in parts
    assert "f32[1,2,37,20]" not in parts


def test_a_mask_of_logits_says_which_count_or_what_is_added():
    q, k, v = drawn(9, 7)
    there = jnp.arange(7 + PAST) < 7
    q, k, v = q, jnp.nan_to_num(k), jnp.nan_to_num(v)
    want = exact(q, k[:, :, :7], v[:, :, :7])
    np.testing.assert_allclose(exact(q, k, v, there), want, rtol=0, atol=1e-6)
    np.testing.assert_allclose(exact(q, k, v, jnp.where(there, 0.0, -jnp.inf)), want, rtol=0, atol=1e-6)


def test_each_platform_has_its_form():
    q, k, v = (x.astype(jnp.bfloat16) for x in drawn(8, 8))
    with tracing_for("tpu"):
        assert "pallas_call" in str(jax.make_jaxpr(lambda *qkv: attention(*qkv))(q, k, v))
    with tracing_for("gpu"), mock.patch.object(jax.nn, "dot_product_attention", wraps=lambda q, *_, **__: q) as cudnn:
        attention(q, k, v)
        assert (cudnn.call_args.args[0].shape, cudnn.call_args.kwargs) == ((1, 8, 2, 16), {"implementation": "cudnn"})
        attention(*(x.astype(jnp.float32) for x in (q, k, v)))
        assert cudnn.call_count == 1  # which has no float32
    assert "pallas_call" not in str(jax.make_jaxpr(attention)(q, k, v))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_blocks_are_whole_tiles_and_no_larger_than_there_are_tokens(dtype):
    for tokens in (1, 300, 45_106):
        blocks = blocks_for(tokens, tokens, dtype)
        assert not any(size % LANES for size in blocks)
        assert blocks.keys % blocks.together == 0
        assert blocks.queries < tokens + LANES
        assert blocks.keys < tokens + blocks.together


@pytest.mark.parametrize(("queries", "keys"), [(256, 384), (257, 1), (300, 700)])
def test_the_kernel_computes_whole_tiles_alone(queries, keys):
    """Counted while it runs, step by step, in blocks that none of these sizes fills."""
    done, product = [], jax.lax.dot_general

    def counting(lhs, rhs, contracted, **how):
        out = product(lhs, rhs, contracted, **how)
        if contracted[0] == ((0,), (0,)):  # of keys and queries
            jax.debug.callback(lambda: done.append(out.size))
        return out

    q, k = (jnp.ones((1, 1, tokens, 16)) for tokens in (queries, keys))
    with mock.patch.object(jax.lax, "dot_general", counting):
        flash.__wrapped__(q, k, k, blocks=Blocks(256, 512, 256), interpret=True).block_until_ready()
    jax.effects_barrier()
    assert sum(done) == products(queries, keys)
    tiles = ceil(queries / LANES) * ceil(keys / LANES)
    assert sum(done) == tiles * LANES**2


@pytest.mark.parametrize("batch", [1, 3])
def test_the_exact_form_has_no_more_logits_at_a_time_than_it_may(batch, monkeypatch):
    x = jax.ShapeDtypeStruct((batch, 2, 96, 16), "float32")
    monkeypatch.setattr(module, "LOGITS", 4 * 96 * 24)  # of 24 queries, of all clips and heads
    written = str(jax.make_jaxpr(exact)(x, x, x))
    sizes = [tuple(map(int, dims.split(","))) for dims in re.findall(r"f32\[([\d,]+)\]", written)]
    logits = {shape for shape in sizes if shape[-1] == 96 and len(shape) == 4}
    assert max(4 * int(np.prod(shape)) for shape in logits) == 4 * 96 * 24


if __name__ == "__main__":
    worst = {dtype: max(kernel_error(n, n, dtype) for n in range(1, 301)) for dtype in ("float32", "bfloat16")}
    print(f"1 to 300 tokens: {worst}, splash at 300 in bfloat16 {splash_error(300):.3g}")
