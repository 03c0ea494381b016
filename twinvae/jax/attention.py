"""Exact attention over any number of tokens, in a form for each platform: softmax(q k^T / sqrt(dim)) v.

A GPU takes cuDNN's kernel where that has the dtype, and a CPU softmax as it is written, a part of the queries at a time
where the logits are large. A TPU takes a kernel of our own (`flash`): JAX's splash attention pads tokens in memory to
whole blocks, which of CogVideoX1.5's 45,106 tokens is a tenth more work, and lays a head's 64 channels out over 128
lanes, which doubles queries, keys and values. Here channels lie across lanes' other axis, and tokens along the lanes.
"""

from __future__ import annotations

import functools
from math import ceil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from twinvae.jax.compiling import traced_for

LOG2E = 1.4426950408889634
LANES = 128
LOGITS = 2**28  # bytes of logits that the exact form has at a time
CUDNN = ("bfloat16", "float16")
Queries = Float[Array, "b h n d"]
Keys = Float[Array, "b h m d"]  # and values


def attention(
    q: Queries, k: Keys, v: Keys, *, keys: int | None = None, centre: bool = False, folded: bool = False
) -> Queries:
    """Attention of queries to keys, without gradients, in the form of the platform that is traced for.

    Args:
        q, k, v: with as many heads; queries and keys may be of a wider dtype than values, and are rounded to theirs.
        keys: how many of the keys count, if not all; what the others hold, even NaN, makes no difference.
        centre: whether the mean of the keys is subtracted before they are rounded. That adds one number to all logits
            of a query, which changes nothing but how much rounding loses of keys that have much in common.
        folded: whether queries come from `prepared`, which said so.
    """
    count = k.shape[2] if keys is None else keys
    if centre:
        wide = k.astype(_precise(k))
        k = wide - wide[:, :, :count].mean(2, keepdims=True)
    if not folded:
        q, k, folded = prepared(q, k, v)
    platform = traced_for()
    if platform == "tpu":
        return flash(q, k, v, keys=count, folded=folded)
    if count < k.shape[2]:
        k, v = k[:, :, :count], v[:, :, :count]
    return fused(q, k, v) if platform == "gpu" and str(q.dtype) in CUDNN else exact(q, k, v)


def prepared(q: Queries, k: Keys, v: Keys) -> tuple[Queries, Keys, bool]:
    """Queries and keys rounded as values are, and whether queries have the factor of powers of two in them.

    That spares a TPU a product for each logit. It is there where rounding comes after it: in bfloat16 it would be one
    more rounding of queries that are rounded already, after which the kernel errs twice as much.
    """
    folded = traced_for() == "tpu" and jnp.finfo(q.dtype).bits > 16
    return (_folded(q) if folded else q).astype(v.dtype), k.astype(v.dtype), folded


def _folded(q: Queries) -> Queries:
    return q * (LOG2E * q.shape[-1] ** -0.5)


def exact(q: Queries, k: Keys, v: Keys, mask: Array | None = None, scale: float | None = None) -> Queries:
    """As it is written, in float32 at least.

    Args:
        mask: of logits, [..., queries, keys]: whether they count, or what is added to them.
        scale: of logits; None: the usual one.
    """
    wide = _precise(q)

    def of(q: Queries, mask: Array | None) -> Queries:
        logits = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=wide)
        logits *= q.shape[-1] ** -0.5 if scale is None else scale
        if mask is not None:
            logits = jnp.where(mask, logits, -jnp.inf) if mask.dtype == bool else logits + mask
        shares = jax.nn.softmax(logits, axis=-1).astype(v.dtype)
        return jnp.einsum("bhqk,bhkd->bhqd", shares, v, preferred_element_type=wide).astype(v.dtype)

    queries = q.shape[2]
    at_once = max(LOGITS // (q.shape[0] * q.shape[1] * k.shape[2] * jnp.dtype(wide).itemsize), 1)
    if queries <= at_once or mask is not None:
        return of(q, mask)
    whole = queries // at_once * at_once
    parts = jnp.moveaxis(q[:, :, :whole].reshape(*q.shape[:2], -1, at_once, q.shape[-1]), 2, 0)
    out = jnp.moveaxis(lax.map(lambda part: of(part, None), parts), 0, 2).reshape(*q.shape[:2], whole, -1)
    return jnp.concatenate([out, of(q[:, :, whole:], None)], axis=2) if whole < queries else out


def fused(q: Queries, k: Keys, v: Keys) -> Queries:
    """cuDNN's kernel, which has no logits in memory."""
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    return jnp.swapaxes(jax.nn.dot_product_attention(q, k, v, implementation="cudnn"), 1, 2)


# A TPU's kernel


class Blocks(NamedTuple):
    """How much of it a program of the kernel holds in vector memory.

    Args:
        queries: of a block, a multiple of 128.
        keys: of a block, a multiple of `together`.
        together: keys whose logits there are at a time, a multiple of 128.
    """

    queries: int
    keys: int
    together: int


# The compiler takes these at 45,106 tokens for v5e, v5p, v6e and tpu7x, in 10 s on an idle core. Of each it takes up to
# 13,312 queries (a minute or more), or 6,656 with 1,408 keys together; a v6e's vector memory has no room for 13,312
# with 1,408.
BLOCKS = {"bfloat16": Blocks(3328, 2816, 256), "float32": Blocks(1664, 1408, 128)}
VECTOR_MEMORY = 64 * 2**20  # bytes that the kernel may take


def blocks_for(queries: int, keys: int, dtype: Any) -> Blocks:
    """The table's blocks, no larger than there are tokens."""
    blocks = BLOCKS["bfloat16" if jnp.dtype(dtype).itemsize == 2 else "float32"]
    return Blocks(
        min(blocks.queries, _whole(queries, LANES)), min(blocks.keys, _whole(keys, blocks.together)), blocks.together
    )


def products(queries: int, keys: int) -> int:
    """Products of a query and a key that the kernel computes, of which `queries * keys` are asked for."""
    return _whole(queries, LANES) * _whole(keys, LANES)


@functools.partial(jax.jit, static_argnames=("keys", "folded", "blocks", "interpret"))
def flash(
    q: Queries, k: Keys, v: Keys, *, keys: int | None = None, folded: bool = False, blocks: Blocks | None = None,
    interpret: bool = False,
) -> Queries:  # fmt: skip
    """A TPU's kernel: powers of two in the place of e, and nothing padded in memory.

    Blocks at the end are computed no further than whole tiles of 128 tokens; of keys past the end, logits are set to
    minus infinity and values to 0.

    Args:
        keys: how many of the keys count.
        folded: see `prepared`.
        blocks: others than the table's.
        interpret: whether it runs on any platform, step by step.
    """
    batch, heads, queries, dim = q.shape
    keys = k.shape[2] if keys is None else keys
    blocks = blocks or blocks_for(queries, keys, q.dtype)
    q, k, v = (jnp.swapaxes(x.reshape(batch * heads, -1, dim), 1, 2) for x in (q, k, v))
    grid = (batch * heads, pl.cdiv(queries, blocks.queries), pl.cdiv(keys, blocks.keys))
    of_queries = pl.BlockSpec((None, dim, blocks.queries), lambda h, i, j: (h, 0, i))
    of_keys = pl.BlockSpec((None, dim, blocks.keys), lambda h, i, j: (h, 0, j))
    wide = jnp.float32
    out = pl.pallas_call(
        functools.partial(
            _kernel, queries=queries, keys=keys, blocks=blocks, factor=1.0 if folded else LOG2E * dim**-0.5
        ),
        grid=grid,
        in_specs=[of_queries, of_keys, of_keys],
        out_specs=of_queries,
        out_shape=jax.ShapeDtypeStruct(q.shape, v.dtype),
        scratch_shapes=[pltpu.VMEM((rows, blocks.queries), wide) for rows in (1, 1, dim)],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "parallel", "arbitrary"), vmem_limit_bytes=VECTOR_MEMORY
        ),
        cost_estimate=pl.CostEstimate(
            flops=4 * batch * heads * queries * keys * dim,
            transcendentals=batch * heads * queries * keys,
            bytes_accessed=2 * batch * heads * dim * q.dtype.itemsize * (queries + keys * grid[1]),
        ),
        interpret=interpret,
    )(q, k, v)
    return jnp.swapaxes(out, 1, 2).reshape(batch, heads, queries, dim)


def _kernel(
    q_ref: Any, k_ref: Any, v_ref: Any, out_ref: Any, top_ref: Any, sum_ref: Any, acc_ref: Any,
    *, queries: int, keys: int, blocks: Blocks, factor: float,
) -> None:  # fmt: skip
    """One block of queries and one of keys: [dim, tokens], running maxima and sums over the blocks of keys."""
    # Named, since a default of "highest" around the call reaches in here, and Mosaic refuses it for bfloat16.
    precision = lax.Precision.DEFAULT if q_ref.dtype == jnp.bfloat16 else lax.Precision.HIGHEST
    product = functools.partial(lax.dot_general, precision=precision, preferred_element_type=jnp.float32)
    row, column = pl.program_id(1), pl.program_id(2)
    rows, columns = ceil(queries / blocks.queries), ceil(keys / blocks.keys)

    @pl.when(column == 0)
    def _begin() -> None:
        top_ref[...] = jnp.full_like(top_ref, -jnp.inf)
        sum_ref[...] = jnp.zeros_like(sum_ref)
        acc_ref[...] = jnp.zeros_like(acc_ref)

    def part(first: Any, size: int, width: int, left: int | None = None) -> None:
        """Some keys of the block, of which `left` count, by the first queries."""
        at, of = pl.ds(first, size), pl.ds(0, width)
        v = v_ref[:, at]
        logits = product(k_ref[:, at], q_ref[:, of], (((0,), (0,)), ((), ())))  # [keys, queries]
        logits = logits if factor == 1 else logits * factor
        if left is not None:
            logits = jnp.where(lax.broadcasted_iota(jnp.int32, (size, 1), 0) < left, logits, -jnp.inf)
            v = jnp.where(lax.broadcasted_iota(jnp.int32, (1, size), 1) < left, v, jnp.zeros_like(v))
        top = jnp.maximum(top_ref[:, of], logits.max(0, keepdims=True))
        powers = jnp.exp2(logits - top)
        before = jnp.exp2(top_ref[:, of] - top)
        sum_ref[:, of] = before * sum_ref[:, of] + powers.sum(0, keepdims=True)
        acc_ref[:, of] = before * acc_ref[:, of] + product(v, powers.astype(v.dtype), (((1,), (0,)), ((), ())))
        top_ref[:, of] = top

    def parts(there: int, width: int) -> None:
        """As many keys of the block as there are."""
        full, rest = divmod(there, blocks.together)
        if full:
            lax.fori_loop(
                0, full, lambda i, _: part(pl.multiple_of(i * blocks.together, LANES), blocks.together, width), None,
                unroll=width == blocks.queries,
            )  # fmt: skip
        if rest:
            part(full * blocks.together, _whole(rest, LANES), width, rest)

    widths = {blocks.queries: row < rows - 1, _whole(queries - (rows - 1) * blocks.queries, LANES): row == rows - 1}
    for width, here in widths.items():
        here = here if len(widths) > 1 else row >= 0

        @pl.when(here & (column < columns - 1))
        def _whole_block(width: int = width) -> None:
            parts(blocks.keys, width)

        @pl.when(here & (column == columns - 1))
        def _last_block(width: int = width) -> None:
            parts(keys - (columns - 1) * blocks.keys, width)
            out_ref[:, pl.ds(0, width)] = (acc_ref[:, pl.ds(0, width)] / sum_ref[:, pl.ds(0, width)]).astype(
                out_ref.dtype
            )


def _whole(count: int, unit: int) -> int:
    return ceil(count / unit) * unit


def _precise(x: Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)
