"""Exact costs of programs: each fault of cost changes one of the numbers."""

from __future__ import annotations

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxlib.mlir import ir

from twinvae.bench.xla_cost import Stage, compiled, dispatches, program_costs, seconds_by_stage, stages

X, W = np.ones((1, 8, 8, 16), np.float32), np.ones((3, 3, 16, 16), np.float32)


def convolve(x, w):
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def costs(function, *given):
    return program_costs(jax.jit(function).lower(*given))


@pytest.fixture(scope="module")
def plain():
    return costs(convolve, X, W)


def test_a_convolution_is_counted(plain):
    # Of each 3x3 window less what hangs over the frame's edges: 22 of 24 taps along each side.
    assert plain["flops"] == pytest.approx(2 * 22 * 22 * 16 * 16, rel=0.05)
    assert plain["convolutions"] == 1
    assert plain["bytes accessed"] >= X.nbytes * 2 + W.nbytes


def test_work_done_twice_shows_in_flops(plain):
    twice = costs(lambda x, w: convolve(convolve(x, w), w), X, W)
    assert twice["flops"] == pytest.approx(2 * plain["flops"], rel=0.01)
    assert twice["convolutions"] == 2


def test_a_transpose_shows(plain):
    turned = costs(lambda x, w: jnp.moveaxis(convolve(x, w), 3, 1), X, W)
    assert turned["transposes"] + turned["copies"] > plain["transposes"] + plain["copies"]


def test_a_python_loop_shows_in_the_program_as_written(plain):
    def rows(x, w):
        return jnp.concatenate([2 * convolve(x, w)[:, row : row + 1] for row in range(8)], axis=1)

    assert costs(rows, X, W)["operations as written"] > plain["operations as written"] + 16


@pytest.mark.parametrize("operation", [
    lambda x: x[jnp.array([0, 0, 0]), 1:3],
    lambda x: x.at[jnp.array([0])].add(1.0),
    lambda x: jax.lax.reduce_window(x, 0.0, jax.lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
    lambda x: jnp.sort(x, axis=1),
    lambda x: x + 1,
], ids=["gather", "scatter", "reduce_window", "sort", "add"])  # fmt: skip
def test_every_way_in_which_an_operation_is_written_is_counted(operation):
    lowered = jax.jit(operation).lower(X)
    names = []
    lowered.compiler_ir("stablehlo").operation.walk(lambda one: names.append(one.name) or ir.WalkResult.ADVANCE)
    expected = [name for name in names if name.startswith("stablehlo.") and name != "stablehlo.return"]
    assert program_costs(lowered)["operations as written"] == len(expected)


@pytest.mark.parametrize(("wide", "count"), [(False, 0), (True, 1)])
def test_float32_computed_in_a_bfloat16_program_shows(wide, count):
    def narrow_or_wide(x, w):
        x = x.astype(jnp.float32) if wide else x
        return convolve(x, w.astype(x.dtype)).astype(jnp.bfloat16)

    given = (jnp.asarray(X, jnp.bfloat16), jnp.asarray(W, jnp.bfloat16))
    assert costs(narrow_or_wide, *given)["products in float32 as written"] == count
    product = costs(lambda x: (x.astype(jnp.float32) if wide else x) @ jnp.ones((16, 4), x.dtype), given[0])
    assert product["products in float32 as written"] == count


def test_a_loop_over_calls_shows_in_the_programs_that_run():
    step = jax.jit(lambda x: x + 1)
    assert dispatches(step, X) == 1
    assert dispatches(lambda x: [step(x[:, row]) for row in range(8)], X) >= 16


def test_compilations_are_counted_and_a_repeated_call_has_none():
    step = jax.jit(lambda x: x * 3 + 1)
    with stages() as found:
        step(X)
        first = compiled(found)
        step(X)
    assert (first, compiled(found)) == (1, 1)
    with stages() as found:
        for _ in range(3):
            jax.jit(lambda x: x * 3 + 1)(X)
    assert compiled(found) == 3


def test_programs_are_counted_by_name_and_no_longer_than_the_block_runs():
    def twice(x):
        return 2 * x

    with stages() as found:
        jax.jit(twice)(X)
    jax.jit(lambda x: x + 5)(X)
    assert compiled(found, "jit(twice)") == compiled(found) == 1
    assert {one.stage for one in found} == {"tracing", "lowering", "compiling"}


def test_tracing_inside_of_tracing_counts_once():
    found = [Stage("tracing", "inner", 1, 2), Stage("tracing", "outer", 0, 3), Stage("compiling", "outer", 3, 7),
             Stage("tracing", "next", 8, 8.5)]  # fmt: skip
    assert seconds_by_stage(found) == {"tracing": 3.5, "lowering": 0.0, "compiling": 4.0}


def test_nothing_is_noted_any_more_when_the_block_has_raised():
    with contextlib.suppress(OSError), stages() as found:
        raise OSError
    jax.jit(lambda x: x + 7)(X)
    assert found == []
