"""Which frames go through the network together, and how many come out."""

from __future__ import annotations

from typing import NamedTuple

# How many go through together by default: diffusers' own.
ENCODED_TOGETHER, DECODED_TOGETHER = 8, 2  # frames of video; latent frames


def frame_batches(frames: int, batch_size: int) -> list[slice]:
    """Split a clip into the frame batches of diffusers: the first batch takes the remainder.

    GroupNorm's statistics run over a frame batch, so this split is part of the function, not a matter of memory.

    Args:
        frames: frames in the clip, at least 1.
        batch_size: frames per batch, at least 1. A shorter clip is one batch.
    Raises:
        ValueError: `frames` or `batch_size` is below 1.
    """
    if frames < 1:
        raise ValueError(f"the clip has {frames} frames: at least 1 is needed")
    if batch_size < 1:
        raise ValueError(f"frame batch size is {batch_size}: it must be at least 1")
    remainder = frames % batch_size if frames >= batch_size else frames - batch_size
    starts = range(remainder, frames, batch_size)
    return [slice(0 if index == 0 else start, start + batch_size) for index, start in enumerate(starts)]


def continued_batches(frames: int, batch_size: int) -> list[slice]:
    """The frame batches of frames that follow an earlier part of the same clip, whose conv cache is carried on.

    Raises:
        ValueError: the frames are no whole number of batches. The remainder of a clip belongs to its first batch.
    """
    if batch_size >= 1 and frames % batch_size:
        raise ValueError(
            f"{frames} frames continue a stream, which takes whole frame batches of {batch_size}: "
            f"give a multiple of {batch_size} (a clip's remainder goes into its first call)"
        )
    return frame_batches(frames, batch_size)


def grouped(batches: list[slice], count: int) -> list[slice]:
    """Frame batches that are run side by side, so many in a group; the last group takes what is left."""
    groups = [batches[start : start + count] for start in range(0, len(batches), count)]
    return [slice(group[0].start, group[-1].stop) for group in groups]


def encoded_frames(frames: int, levels: int) -> int:
    """Latent frames that come from one frame batch of the encoder.

    Each level averages pairs of frames; an odd count keeps its first frame alone (diffusers' CogVideoXDownsample3D).
    """
    for _ in range(levels):
        frames = (frames + 1) // 2
    return frames


def decoded_frames(frames: int, levels: int) -> int:
    """Video frames that come from one frame batch of the decoder.

    Each level doubles the frames; an odd count does not double its first frame, a single frame stays single
    (diffusers' CogVideoXUpsample3D).
    """
    for _ in range(levels):
        frames = 2 * frames - frames % 2
    return frames


def latent_count(frames: int, batch_size: int, levels: int) -> int:
    """Latent frames that come from encoding a clip of `frames` frames."""
    return sum(encoded_frames(batch.stop - batch.start, levels) for batch in frame_batches(frames, batch_size))


def sample_count(latents: int, batch_size: int, levels: int) -> int:
    """Video frames that come from decoding `latents` latent frames."""
    return sum(decoded_frames(batch.stop - batch.start, levels) for batch in frame_batches(latents, batch_size))


class RoundTrip(NamedTuple):
    """What becomes of a clip's length in encoding and decoding.

    A pipeline that needs a clip back as long as it was encodes `trim` frames less, or repeats the last frame `pad`
    times and leaves as many out of what comes back. Cutting or stretching the decoded clip does not do: its frames
    stand for other moments.

    Attributes:
        frames: of the clip.
        latents: latent frames that come from encoding it.
        back: frames that come from decoding those.
        below, above: the nearest lengths, up to the clip's own and from it on, that come back as they went in: the
            clip's own where it does. `above` is None where there is none, which frame batch sizes other than the
            default can cause.
    """

    frames: int
    latents: int
    back: int
    below: int
    above: int | None

    @property
    def trim(self) -> int:
        return self.frames - self.below

    @property
    def pad(self) -> int | None:
        return None if self.above is None else self.above - self.frames


def round_trip(frames: int, sample_batch_size: int, latent_batch_size: int, levels: int) -> RoundTrip:
    """How long a clip of `frames` frames is after encoding and decoding, and the nearest lengths that survive it.

    Args:
        sample_batch_size, latent_batch_size: frames that the encoder, and latents that the decoder, take together.
        levels: how often the encoder halves the frames (`VAEConfig.temporal_levels`).
    Raises:
        ValueError: `frames` or a batch size is below 1.
    """

    def through(count: int) -> tuple[int, int]:
        latents = latent_count(count, sample_batch_size, levels)
        return latents, sample_count(latents, latent_batch_size, levels)

    def survives(count: int) -> bool:
        return through(count)[1] == count

    latents, back = through(frames)
    # One frame always survives. Upwards, the pattern repeats every so many frames at the latest.
    repeats = sample_batch_size * latent_batch_size
    below = next(count for count in range(frames, 0, -1) if survives(count))
    above = next(filter(survives, range(frames, frames + 2 * repeats + 1)), None)
    return RoundTrip(frames, latents, back, below, above)
