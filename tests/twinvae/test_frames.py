"""Frame batches and frame counts, against diffusers' own loops and samplers run on stand-ins without weights."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.downsampling import CogVideoXDownsample3D
from diffusers.models.upsampling import CogVideoXUpsample3D

from twinvae.frames import (
    continued_batches,
    decoded_frames,
    encoded_frames,
    frame_batches,
    latent_count,
    round_trip,
    sample_count,
)


def diffusers_batches(operation: str, frames: int, batch_size: int) -> list[list[int]]:
    """The frame numbers that diffusers hands to its encoder or decoder, call by call."""
    seen = []

    def network(x: torch.Tensor, conv_cache: None) -> tuple[torch.Tensor, None]:
        seen.append(x.flatten().int().tolist())
        return x, None

    stand_in = SimpleNamespace(
        use_tiling=False,
        num_sample_frames_batch_size=batch_size,
        num_latent_frames_batch_size=batch_size,
        encoder=network,
        decoder=network,
        quant_conv=None,
        post_quant_conv=None,
    )
    clip = torch.arange(frames).reshape(1, 1, frames, 1, 1).float()
    getattr(AutoencoderKLCogVideoX, f"_{operation}")(stand_in, clip)
    return seen


@pytest.mark.parametrize("operation", ["encode", "decode"])
@pytest.mark.parametrize("batch_size", range(1, 10))
def test_frame_batches_are_those_of_diffusers_for_every_frame_count(operation, batch_size):
    for frames in range(1, 41):
        ours = [list(range(frames)[batch]) for batch in frame_batches(frames, batch_size)]
        assert ours == diffusers_batches(operation, frames, batch_size)


def test_the_first_batch_takes_the_remainder():
    assert [batch.stop - batch.start for batch in frame_batches(13, 2)] == [3, 2, 2, 2, 2, 2]


@pytest.mark.parametrize("frames", range(1, 20))
def test_frames_through_one_level_are_those_of_diffusers_samplers(frames):
    with torch.device("meta"):
        clip = torch.empty(1, 2, frames, 4, 4)
        down = CogVideoXDownsample3D(2, 2, compress_time=True)(clip)
        up = CogVideoXUpsample3D(2, 2, compress_time=True)(clip)
    assert (encoded_frames(frames, 1), decoded_frames(frames, 1)) == (down.shape[2], up.shape[2])
    assert (encoded_frames(frames, 0), decoded_frames(frames, 0)) == (frames, frames)


def test_levels_apply_one_after_the_other():
    assert [encoded_frames(frames, 2) for frames in (1, 2, 3, 4, 5, 8, 9, 11)] == [1, 1, 1, 1, 2, 2, 3, 3]
    assert [decoded_frames(frames, 2) for frames in (1, 2, 3, 4)] == [1, 8, 9, 16]


@pytest.mark.parametrize(
    ("frames", "latents", "back"),
    [(1, 1, 1), (5, 2, 8), (8, 2, 8), (9, 3, 9), (13, 4, 16), (17, 5, 17), (49, 13, 49), (81, 21, 81)],
)
def test_clips_come_back_with_the_frame_counts_measured_on_diffusers(frames, latents, back):
    assert latent_count(frames, 8, 2) == latents
    assert sample_count(latents, 2, 2) == back


def test_a_stream_goes_on_in_whole_batches():
    assert continued_batches(6, 2) == [slice(0, 2), slice(2, 4), slice(4, 6)]
    with pytest.raises(ValueError, match=r"5 frames continue a stream.*multiple of 2"):
        continued_batches(5, 2)


@pytest.mark.parametrize(
    ("split", "frames", "batch_size", "message"),
    [
        (frame_batches, 0, 2, "0 frames: at least 1"),
        (frame_batches, 3, 0, "frame batch size is 0"),
        (continued_batches, 0, 2, "0 frames: at least 1"),
        (continued_batches, 4, 0, "frame batch size is 0"),
        (continued_batches, 3, -2, "frame batch size is -2"),
        (lambda frames, size: round_trip(frames, 8, size, 2), 0, 2, "0 frames: at least 1"),
        (lambda frames, size: round_trip(frames, 8, size, 2), 3, 0, "frame batch size is 0"),
    ],
)
def test_no_frames_and_no_batch_size_are_named(split, frames, batch_size, message):
    with pytest.raises(ValueError, match=message):
        split(frames, batch_size)


@pytest.mark.parametrize(
    ("frames", "latents", "back", "below", "above", "trim", "pad"),
    [
        (1, 1, 1, 1, 1, 0, 0),
        (2, 1, 1, 1, 8, 1, 6),
        (7, 2, 8, 1, 8, 6, 1),
        (8, 2, 8, 8, 8, 0, 0),
        (9, 3, 9, 9, 9, 0, 0),
        (10, 3, 9, 9, 16, 1, 6),
        (13, 4, 16, 9, 16, 4, 3),
        (48, 12, 48, 48, 48, 0, 0),
        (50, 13, 49, 49, 56, 1, 6),
    ],
)
def test_a_pipeline_is_told_what_to_trim_or_pad(frames, latents, back, below, above, trim, pad):
    told = round_trip(frames, 8, 2, 2)
    assert told == (frames, latents, back, below, above)
    assert (told.trim, told.pad) == (trim, pad)


@pytest.mark.parametrize("levels", [0, 1, 2, 3])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 2), (3, 2), (4, 1), (4, 2), (5, 3), (8, 1), (8, 3), (16, 2), (16, 4)])
def test_the_nearest_lengths_that_survive_are_the_nearest(sizes, levels):
    lengths = range(1, 400)
    back = {frames: sample_count(latent_count(frames, sizes[0], levels), sizes[1], levels) for frames in lengths}
    surviving = [frames for frames in lengths if back[frames] == frames]
    for frames in range(1, 60):
        below = max(count for count in surviving if count <= frames)
        above = min((count for count in surviving if count >= frames), default=None)
        assert round_trip(frames, *sizes, levels)[2:] == (back[frames], below, above)


def test_some_frame_batch_sizes_let_no_longer_clip_survive():
    told = round_trip(9, 8, 1, 2)  # single latents are never doubled
    assert (told.below, told.above, told.pad) == (1, None, None)
