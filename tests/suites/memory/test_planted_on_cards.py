"""What GPUs were slow by is called by exact evidence on a machine without one: a copy in float32, another layout."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import twinvae
from suites.memory.bars import OF_CARDS, PEAK
from twinvae.bench.aot import cuda, hlo
from twinvae.bench.aot.compilers import sharding_on
from twinvae.bench.aot.programs import Compiler
from twinvae.bench.baselines import Entry
from twinvae.bench.records import Record
from twinvae.bench.verdicts import judge
from twinvae.jax.compiling import compiler_options, tracing_for

pytestmark = [pytest.mark.skipif(bool(cuda.missing()), reason=cuda.missing()), pytest.mark.compiles]
INIT = {"in_channels": 16, "out_channels": 16, "kernel_size": 3}
SHAPE = (1, 4, 48, 64, 16)


def loaded():
    """A causal convolution of the Flax backend in bfloat16; what it was traced for once, it keeps."""
    tensors = {"conv.weight": np.ones((16, 16, 3, 3, 3), np.float32), "conv.bias": np.ones(16, np.float32)}
    layer = twinvae.load_layer("flax", "CogVideoXCausalConv3d", INIT, tensors, dtype="bfloat16")
    return lambda x: jnp.tanh(layer(x)[0])


@pytest.fixture(scope="module")
def convolve():
    return loaded()


def found(chain, options=None) -> dict[str, float]:
    """What the suite records of a program for an H100."""
    x = jax.ShapeDtypeStruct(SHAPE, "bfloat16", sharding=sharding_on("h100"))
    with tracing_for("gpu"):
        lowered = jax.jit(chain, compiler_options=compiler_options("gpu") if options is None else options).lower(x)
    program = Compiler(None, "t", "v").ask("chain", lowered, small=True).program
    return {PEAK: program.peak_bytes / 1e9} | program.counts


@pytest.fixture(scope="module")
def before(convolve):
    return found(lambda x: convolve(convolve(convolve(x))))


def alarms(before: dict[str, float], after: dict[str, float]) -> dict[str, str]:
    """The values that fail, held as the suite does, against what was before."""
    rows = {
        metric: Record(suite="memory", case="chain", metric=metric, value=value, **OF_CARDS[metric].fields)
        for metric, value in after.items()
    }
    judged = {name: judge(row, Entry(case="chain", metric=name, value=before[name])) for name, row in rows.items()}
    return {metric: verdict.status for metric, verdict in judged.items() if verdict.failing}


def test_nothing_is_called_where_nothing_is_planted(before):
    assert alarms(before, before) == {}
    assert before[hlo.CONVOLUTIONS] == 3
    assert before[hlo.FLOAT32] == before[hlo.TRANSPOSES] == 0


def test_convolutions_in_float32_are_called(before, monkeypatch):
    monkeypatch.setattr("twinvae.jax.convolution.on_gpu", lambda: False)  # results in float32, as on other platforms
    convolve = loaded()
    called = alarms(before, found(lambda x: convolve(convolve(convolve(x)))))
    assert called[hlo.IN_FLOAT32] == "wrong"
    assert called[hlo.FLOAT32] == "regressed"


def test_channel_first_convolutions_are_called(convolve, before):
    called = alarms(before, found(lambda x: convolve(convolve(convolve(x))), options={}))
    assert called[hlo.CHANNEL_FIRST] == called[hlo.TRANSPOSES] == "wrong"


def test_an_activation_that_is_kept_is_called(convolve, before):
    def chain(x):
        first = convolve(x)
        return convolve(convolve(first)) + first

    assert alarms(before, found(chain))[PEAK] == "regressed"


def test_a_copy_of_an_activation_in_float32_that_outlives_a_fusion_is_called(convolve, before):
    def chain(x):
        copied = jax.lax.optimization_barrier(convolve(x).astype(jnp.float32))
        return convolve(convolve(copied.astype(jnp.bfloat16)))

    assert alarms(before, found(chain))[hlo.FLOAT32] == "regressed"
