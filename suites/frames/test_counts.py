"""Every number of frames and of latents, in frame batches of every size, one clip and two: what diffusers gives."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers import AutoencoderKLCogVideoX

import twinvae
from suites.frames.bars import LENGTHS, PROGRAMS
from twinvae.bench.bars import hold
from twinvae.bench.halves import BATCH_SIZE, label, stream, whole
from twinvae.bench.xla_cost import NETWORK, compiled, stages
from twinvae.frames import round_trip

DEFAULT = {"encode": 8, "decode": 2}
ENCODED = (*range(1, 34), 49, 81)
# Frames that go through the network together: how many frames (or latents) a clip has. Every remainder is there.
COUNTS = {
    "encode": {8: ENCODED, 4: (1, 3, *range(4, 10), 13), 16: (1, 15, 16, 17, 31, 33)},
    "decode": {2: (*range(1, 14), 21), 1: (1, 2, 3), 3: (1, 2, 3, 4, 5, 6, 7), 4: (1, 3, 4, 5, 8, 9)},
}
CASES = [
    pytest.param(operation, size, count, marks=[pytest.mark.needs("batches")] if size != DEFAULT[operation] else [])
    for operation, sizes in COUNTS.items()
    for size in sizes
    for count in sizes[size]
]
# Clips of several lengths, and the distinct frame batches that they come down to: a first one, and a later one.
COMPILED = {"encode": ((9, 17, 25, 33), 2), "decode": ((3, 5, 7, 9), 2)}
TWO_CLIPS = {"encode": 17, "decode": 5}

pytestmark = [pytest.mark.only(once=True, large=False), pytest.mark.clip_frames(81)]


@pytest.mark.parametrize(("operation", "size", "count"), CASES)
def test_a_clip_of_any_length_gives_what_diffusers_gives(operation, size, count, clips, compare):
    compare(operation, clips[operation][:, :count], size, label(operation, count, size))


@pytest.mark.parametrize("operation", TWO_CLIPS)
def test_two_clips_together_give_what_diffusers_gives(operation, clips, compare):
    compare(operation, two_clips(operation, clips), DEFAULT[operation], "two clips")


@pytest.mark.needs("slicing")
@pytest.mark.parametrize("operation", TWO_CLIPS)
def test_slicing_runs_one_clip_after_the_other(operation, clips, compare, vae, monkeypatch):
    both, size = two_clips(operation, clips), DEFAULT[operation]
    vae.enable_slicing()
    if "step" not in vae.capabilities:  # its loops are its own, and cannot be looked into
        compare(operation, both, size, "two clips, sliced")
        return
    vae.disable_slicing()
    alone = [whole(vae, operation, both[index : index + 1], size) for index in range(2)]
    run, items = vae.run_frame_batch, []

    def counting(operation, frames, *rest, **how):
        items.append(len(frames))
        return run(operation, frames, *rest, **how)

    monkeypatch.setattr(vae, "run_frame_batch", counting)
    vae.enable_slicing()
    np.testing.assert_array_equal(whole(vae, operation, both, size), np.concatenate(alone))
    assert set(items) == {1}, f"{items} clips went through the network together"
    compare(operation, both, size, "two clips, sliced")


def two_clips(operation, clips):
    """The first frames of the clip, and its last ones backwards."""
    count = TWO_CLIPS[operation]
    return np.concatenate([clips[operation][:, :count], clips[operation][:, -count:][:, ::-1]])


@pytest.mark.needs("step", "stream")
@pytest.mark.only(mode=("jit",))
@pytest.mark.parametrize("operation", COMPILED)
def test_one_program_is_compiled_for_each_frame_batch_length_first_or_later(
    operation, clips, model, backend, mode, dtype, record
):
    counts, distinct = COMPILED[operation]
    vae = twinvae.load(backend, **model.source, dtype=dtype)
    with stages() as found:
        for count in counts:
            whole(vae, operation, clips[operation][:, :count], DEFAULT[operation])
        list(stream(vae, operation, clips[operation][:, : counts[1]]))
    bars = {"programs": PROGRAMS["programs"]._replace(limit=distinct)}
    case = f"{len(counts)} clips of {min(counts)} to {max(counts)}"
    hold(record, bars, {"programs": compiled(found, NETWORK)}, case, operation=operation)
    assert compiled(found, NETWORK) == distinct


@pytest.mark.needs("house")
def test_the_default_frame_batches_are_those_of_diffusers(vae):
    of_diffusers = AutoencoderKLCogVideoX(**vae.config.model_dump())
    for operation, name in BATCH_SIZE.items():
        assert getattr(vae, name) == getattr(of_diffusers, name) == DEFAULT[operation]


def test_a_length_survives_where_encoding_and_decoding_give_it_back(clips, of_diffusers, model, dtype, record):
    def length(operation, count):
        return of_diffusers(operation, clips[operation][:, :count], DEFAULT[operation], dtype).shape[1]

    latents = {frames: length("encode", frames) for frames in ENCODED}
    back = {frames: length("decode", latents[frames]) for frames in ENCODED}
    surviving = [frames for frames in ENCODED if back[frames] == frames]
    for frames in ENCODED:
        below = max(count for count in surviving if count <= frames)
        above = min(count for count in surviving if count >= frames)
        told = round_trip(frames, *DEFAULT.values(), model.config.temporal_levels)
        assert told == (frames, latents[frames], back[frames], below, above)
        values = {"latents": latents[frames], "frames back": back[frames],
                  "survives below": below, "survives above": above}  # fmt: skip
        hold(record, LENGTHS, values, f"{frames} frames")
