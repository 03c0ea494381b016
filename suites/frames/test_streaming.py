"""A stream is the whole, frame batch by frame batch: bit for bit, also when stopped, saved, read back and resumed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from suites.frames.bars import CACHE, CLOSE, SAME_BITS
from twinvae import ConvCache
from twinvae.arrays import DTYPES, dtype_scope
from twinvae.bench.bars import hold, measured
from twinvae.bench.halves import batched, differing, label, output_batches, stream, whole
from twinvae.bench.xla_cost import NETWORK, compiled, stages
from twinvae.frames import frame_batches, grouped
from twinvae.registry import REFERENCE

# Frames in a clip, and how many go through the network together: a first batch, then one or two others. Batches of 4
# frames are down to a single one where the encoder is deepest, and so are batches of 1 latent where the decoder is:
# shorter than the conv cache.
CLIPS = [("encode", 17, 8), ("encode", 13, 4), ("decode", 7, 2), ("decode", 3, 1)]
STOPPED = [(*clip, stop) for clip in CLIPS for stop in range(1, len(frame_batches(*clip[1:])))]
ONE_PROGRAM = 7  # latents: the first frame batch, and two in the loop over the others

pytestmark = [pytest.mark.needs("stream"), pytest.mark.only(once=True, large=False), pytest.mark.clip_frames(25)]


def expect_same(record, operation, case, found, expected):
    """Record how many values differ, and fail on any."""
    value = differing(found, expected)
    hold(record, SAME_BITS, {"differing values": value}, case, operation=operation)
    assert value == 0, f"{case}: {value} of {np.size(expected)} values differ"


@pytest.mark.parametrize(("operation", "count", "size"), CLIPS)
def test_a_stream_gives_the_whole_a_frame_batch_at_a_time(operation, count, size, clips, vae, record):
    clip = clips[operation][:, :count]
    expected = whole(vae, operation, clip, size)
    with batched(vae, operation, size):
        given = stream(vae, operation, clip)
        assert given.cache is None
        chunks = [np.asarray(chunk) for chunk in given]
    outputs, together = output_batches(vae, operation, count, size), vae.devices[1]
    sizes = [sum(outputs[first : first + together]) for first in range(0, len(outputs), together)]
    assert [chunk.shape[1] for chunk in chunks] == sizes
    case = f"{label(operation, count, size)}, streamed"
    expect_same(record, operation, case, np.concatenate(chunks, axis=1), expected)


@pytest.mark.parametrize(("operation", "count", "size", "stop"), STOPPED)
def test_a_stream_goes_on_from_a_saved_cache_as_if_never_stopped(
    operation, count, size, stop, clips, vae, options, record, tmp_path
):
    if options.mesh and options.mesh.hosts > 1:
        pytest.skip("of several hosts, each has a part of the conv cache alone, and none can write it to a file")
    clip = clips[operation][:, :count]
    expected = whole(vae, operation, clip, size)
    groups = grouped(frame_batches(count, size), vae.devices[1])
    if stop >= len(groups):
        pytest.skip(f"{len(groups)} groups of frame batches, {vae.devices[1]} side by side, end before {stop}")
    cut = groups[stop].start
    with batched(vae, operation, size):
        ended, left = stream(vae, operation, clip[:, :cut]), stream(vae, operation, clip)
        first = list(ended)
        for _ in range(stop):
            next(left)
        assert caches_equal(ended.cache, left.cache), "frames after the stop went into the cache"
        with stages() as found_stages:
            rest = list(stream(vae, operation, clip[:, cut:], through_a_file(left.cache, tmp_path / "cache.npz")))
    assert not compiled(found_stages, NETWORK), "resuming compiled a program that the whole had compiled already"
    found = np.concatenate([np.asarray(chunk) for chunk in first + rest], axis=1)
    case = f"{label(operation, count, size)}, resumed after {stop}"
    expect_same(record, operation, case, found, expected)


def through_a_file(cache: ConvCache, path: Path) -> ConvCache:
    """The cache with its arrays written to a file and read back."""
    arrays, structure = jax.tree.flatten(cache.tiles)
    np.savez(path, *arrays)
    with np.load(path, allow_pickle=False) as stored:  # which knows bfloat16 as two bytes
        read = [stored[name].view(array.dtype) for name, array in zip(stored.files, arrays, strict=True)]
    return replace(cache, tiles=jax.tree.unflatten(structure, read))


def caches_equal(one: ConvCache, other: ConvCache) -> bool:
    """Equal in every bit, and of what they belong to."""
    same = jax.tree.map(lambda a, b: differing(a, b) == 0, one.tiles, other.tiles)
    return jax.tree.all(same) and replace(one, tiles=()) == replace(other, tiles=())


@pytest.mark.parametrize(("operation", "count", "size"), CLIPS[:1] + CLIPS[-2:-1])
def test_the_conv_cache_is_no_larger_than_what_diffusers_reads(
    operation, count, size, clips, vae, load, model, dtype, record
):
    caches = {}
    for of, one in (("found", vae), ("of diffusers", load(REFERENCE, model, "eager", dtype))):
        with batched(one, operation, size):
            given = stream(one, operation, clips[operation][:, :count])
            list(given)
        caches[of] = given.cache.tiles
    sizes = {of: sum(cached_values(cache)) for of, cache in caches.items()}
    # Of a single row of latents, what each device of a mesh has, and keeps, is as large as the whole.
    bars = {"values kept": CACHE["values kept"]._replace(limit=sizes["of diffusers"] * math.prod(vae.devices))}
    hold(record, bars, {"values kept": sizes["found"]}, f"{label(operation, count, size)}, conv cache",
         operation=operation)  # fmt: skip


def cached_values(cache: Any) -> Iterator[int]:
    """How many values each array of a conv cache holds, but for those of 1x1x1 convolutions, which are never read."""
    leaves = jax.tree_util.tree_leaves_with_path(cache, is_leaf=lambda part: hasattr(part, "shape"))
    for path, array in leaves:
        if not any(getattr(step, "key", None) in ("conv_y", "conv_b") for step in path):
            yield math.prod(array.shape)


@pytest.mark.only(mode=("jit",), dtype=("float64",))
def test_a_whole_decode_as_one_program_is_that_of_its_frame_batches(clips, vae, model, mode, dtype, record):
    latents = clips["decode"][:, :ONE_PROGRAM]
    program = vae.lower_decode(latents.shape).compile()
    with dtype_scope(DTYPES[dtype]):
        found = {"output": np.asarray(program(vae.params, latents))}
    expected = {"output": np.asarray(vae.decode(latents))}
    hold(record, CLOSE, measured(CLOSE, found, expected), "one program", operation="decode")
