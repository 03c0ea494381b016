"""Clips, frame batch sizes and conv caches that cannot work are refused before anything is computed, in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest

from twinvae import ConvCache, VideoVAE
from twinvae.bench.halves import Clip, batched, stream
from twinvae.registry import REFERENCE

# Frames in the clip and in a frame batch, and what the message says.
CLIPS = {
    "no frames": (0, 2, r"no frames: give at least 1"),
    "frame batches of 0": (4, 0, r"frame batch size is 0: it must be at least 1"),
    "frame batches of -1": (4, -1, r"frame batch size is -1: it must be at least 1"),
}
CALLS: dict[str, Callable[[VideoVAE, str, Clip, ConvCache], Any]] = {
    "whole": lambda vae, operation, clip, cache: getattr(vae, operation)(clip),
    "streamed": lambda vae, operation, clip, cache: stream(vae, operation, clip),
    "resumed": lambda vae, operation, clip, cache: stream(vae, operation, clip, cache),
    "lowered": lambda vae, operation, clip, cache: getattr(vae, f"lower_{operation}")(clip.shape),
}


class Resumed(NamedTuple):
    """What is wrong where a clip of 4 frames, of which 2 were given, goes on from a conv cache.

    Args:
        message: of the error.
        cache: fields of the cache that are not the clip's.
        tiles: how many the cache holds.
        repeats: how often the clip's axes repeat in what it is resumed with.
        rest: how many frames it is resumed with, 2 at a time.
    """

    message: str
    cache: dict[str, Any] | None = None
    tiles: int = 1
    repeats: tuple[int, ...] = (1, 1, 1, 1, 1)
    rest: int = 2


ANOTHER_SHAPE = (
    r"its \(batch, height, width, dtype\) is \(.*\), expected \(.*\); pass the cache of the same clip's last"
)
RESUMED = {
    "another checkpoint": Resumed(r"its checkpoint is 1234, expected \w+; pass the cache", {"checkpoint": "1234"}),
    "another dtype": Resumed(ANOTHER_SHAPE, {"frame": (1, 2, 3, "float16")}),
    "two clips": Resumed(ANOTHER_SHAPE, repeats=(2, 1, 1, 1, 1)),
    "another height": Resumed(ANOTHER_SHAPE, repeats=(1, 1, 2, 1, 1)),
    "another width": Resumed(ANOTHER_SHAPE, repeats=(1, 1, 1, 2, 1)),
    "four tiles": Resumed(r"holds 4 tiles and the stream has 1: resume with the tiling", tiles=4),
    "part of a frame batch": Resumed(r"1 frames continue a stream, .* whole frame batches of 2: give", rest=1),
    "a frame batch and a part": Resumed(r"3 frames continue a stream, .* whole frame batches of 2: give", rest=3),
}

pytestmark = [
    pytest.mark.needs("stream", "house"),
    pytest.mark.only(once=True, large=False),
    pytest.mark.clip_frames(4),
    pytest.mark.parametrize("operation", ["encode", "decode"]),
]


def cache_after_two_frames(vae: VideoVAE, operation: str, clip: Clip) -> ConvCache:
    with batched(vae, operation, 2):
        given = stream(vae, operation, clip[:, :2])
        list(given)
    return given.cache


@pytest.fixture
def cache(vae, operation, clips, monkeypatch) -> ConvCache:
    """The conv cache of a clip's first 2 frames; from here on, computing fails."""
    cache = cache_after_two_frames(vae, operation, clips[operation])
    monkeypatch.setattr(
        vae, "run_frame_batch", lambda *_, **__: pytest.fail("it computed before it refused", pytrace=False)
    )
    return cache


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("case", CLIPS)
def test_a_clip_without_frames_or_frame_batches_is_refused(case, call, operation, clips, vae, cache):
    count, size, message = CLIPS[case]
    with batched(vae, operation, size), pytest.raises(ValueError, match=message):
        CALLS[call](vae, operation, clips[operation][:, :count], cache)


@pytest.mark.parametrize("case", RESUMED)
def test_a_stream_is_not_resumed_with_what_does_not_go_on_from_its_cache(case, operation, clips, vae, cache):
    spec = RESUMED[case]
    wrong = replace(cache, tiles=cache.tiles * spec.tiles, **(spec.cache or {}))
    rest = np.tile(clips[operation][:, 2 : 2 + spec.rest], spec.repeats)
    with batched(vae, operation, 2), pytest.raises(ValueError, match=spec.message):
        stream(vae, operation, rest, wrong)


def test_a_stream_is_not_resumed_from_a_cache_of_another_backend_or_half(operation, clips, load, model, dtype, vae):
    other = {"encode": "decode", "decode": "encode"}[operation]
    of_reference = cache_after_two_frames(load(REFERENCE, model, "eager", dtype), operation, clips[operation])
    of_other_half = cache_after_two_frames(vae, other, clips[other])
    for cache, message in (
        (of_reference, rf"its backend is {REFERENCE}, expected {vae.backend}; pass the cache"),
        (of_other_half, rf"its operation is {other}, expected {operation}; pass the cache"),
    ):
        with pytest.raises(ValueError, match=message):
            stream(vae, operation, clips[operation][:, 2:4], cache)
