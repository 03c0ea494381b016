"""Whatever raises inside of what sets something for a while, the process is afterwards as it was before."""

from __future__ import annotations

import contextlib
import gc
import signal
import time
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch

import twinvae
from impl_flax import blocks
from impl_torchax import lowerings
from suites.speed.contenders import full_precision
from twinvae.arrays import dtype_scope
from twinvae.bench import debugging, effort, halves, plugin, timing
from twinvae.jax import shards
from twinvae.jax.compiling import traced_for, tracing_for
from twinvae.jax.kept import keeping
from twinvae.jax.slabs import ROWS, Slabs

VAE = SimpleNamespace(num_latent_frames_batch_size=2, num_sample_frames_batch_size=8)
CACHE = ("jax_compilation_cache_dir", "jax_enable_compilation_cache", "jax_persistent_cache_min_compile_time_secs",
         "jax_persistent_cache_min_entry_size_bytes")  # fmt: skip
TRACING = SimpleNamespace(stash={debugging.TRACES: []})


def efforts():
    return torch.get_num_threads(), jax.config.values["jax_disable_most_optimizations"]


def cache():
    return [getattr(jax.config, name) for name in CACHE]


def tf32():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def alarm():
    return signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def within(context, state):
    """What was set within, out of which something raised."""
    seen = []
    with contextlib.suppress(InterruptedError), context:
        seen.append(state())
        raise InterruptedError
    return seen[0]


# What begins it, given a folder; and what it sets.
CONTEXTS = {
    "little effort": (lambda folder: effort.little_effort(), efforts),
    "kept programs": (keeping, cache),
    "no kept programs": (lambda folder: keeping(None), cache),
    "no garbage collection": (lambda folder: timing._no_garbage_collection(), gc.isenabled),
    "a time limit": (lambda folder: plugin.limited(60), alarm),
    "a frame batch size to decode": (lambda folder: halves.batched(VAE, "decode", 5), lambda: dict(vars(VAE))),
    "a frame batch size to encode": (lambda folder: halves.batched(VAE, "encode", 5), lambda: dict(vars(VAE))),
    "another platform": (lambda folder: tracing_for("tpu"), traced_for),
    "float64": (lambda folder: dtype_scope(np.dtype("float64")), lambda: jax.numpy.asarray(np.float64(1)).dtype),
    "no TF32": (lambda folder: full_precision(), tf32),
    "a device's part": (lambda folder: shards.holding("a shard"), lambda: shards._held.get()),
    "slabs": (
        lambda folder: lowerings.convolving_in(Slabs(10**6, ROWS)),
        lambda: (lowerings._slabs.get(), lowerings._enlarged.get()),
    ),
    "computing again": (lambda folder: blocks.computed_again(), lambda: blocks._AGAIN.get()),
}


@pytest.fixture
def _as_elsewhere():
    """Other values than what the contexts set, so that putting back what they set is not enough."""
    before = efforts(), tf32()
    torch.set_num_threads(2)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.set_num_threads(before[0][0])
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before[1]


@pytest.mark.usefixtures("_as_elsewhere")
@pytest.mark.parametrize("name", CONTEXTS)
def test_what_is_set_for_a_while_is_set_and_put_back_whatever_raises(name, tmp_path):
    begin, state = CONTEXTS[name]
    before = state()
    assert within(begin(tmp_path), state) != before
    assert state() == before


def test_what_was_off_before_stays_off():
    gc.disable()
    try:
        with timing._no_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_test_that_takes_too_long_ends_and_an_alarm_of_before_is_nobodys():
    with pytest.raises(TimeoutError, match=r"longer than 0\.05 s \(see --time-limit\)"), plugin.limited(0.05):
        time.sleep(10)
    with plugin.limited(0.05):
        pass
    time.sleep(0.1)  # nothing comes any more
    with plugin.limited(None):
        assert alarm()[1]


def test_a_traced_vae_has_its_own_methods_again():
    vae = twinvae.load("torch")
    before = dict(vars(vae))
    assert within(debugging.traced(TRACING, "x", vae), lambda: dict(vars(vae))).keys() > before.keys()
    assert vars(vae) == before


def test_values_differ_in_any_bit_and_are_held_against_nothing_of_another_kind():
    found = np.array([0.0, 1.0, np.nan, 2.0], np.float32)
    assert halves.differing(found, found.copy()) == 0  # NaN of the same bits is the same
    assert halves.differing(found, np.array([-0.0, 1.0, np.nan, np.nextafter(np.float32(2), 3)], np.float32)) == 2
    for other in (found.astype(np.float64), found[:3]):
        with pytest.raises(AssertionError):
            halves.differing(found, other)
