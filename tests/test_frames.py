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
    ],
)
def test_no_frames_and_no_batch_size_are_named(split, frames, batch_size, message):
    with pytest.raises(ValueError, match=message):
        split(frames, batch_size)
