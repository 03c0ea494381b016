"""What moves in a decoded clip and did not in the original: frame by frame, of trained weights on a real clip."""

from __future__ import annotations

import numpy as np
import pytest

from suites.frames.bars import EDGES, FLICKER, FLICKERS, OFF
from suites.frames.flicker import at_edges, flicker, quality
from twinvae.bench.bars import hold
from twinvae.bench.models import TRAINED
from twinvae.frames import DECODED_TOGETHER, frame_batches
from twinvae.registry import REFERENCE

CLIP = (33, 64, 96)  # 9 latents: frame batches of 3, 2, 2 and 2

pytestmark = [pytest.mark.clip_frames(CLIP[0]), pytest.mark.needs("batches")]


def rows(options):
    """In float32; ports have weights of their own."""
    own = [backend for backend in options.backends if backend not in (REFERENCE, *options.ports)]
    return [{"backend": backend, "dtype": "float32"} for backend in own if "float32" in options.dtypes]


@pytest.fixture
def in_torch(trained, film, once):
    """What diffusers makes of the clip: its latents, and the video of those."""

    def make() -> dict[str, np.ndarray]:
        reference = trained(REFERENCE, "float32")
        latents = reference.encode(film(*CLIP)).mean
        return {"latents": latents, "video": np.asarray(reference.decode(latents))}

    return once(__name__, make)


@pytest.mark.cases("backend, dtype", rows)
def test_a_decoded_clip_flickers_no_more_than_diffusers(backend, dtype, trained, film, in_torch, record, exhibit):
    video, found = film(*CLIP), np.asarray(trained(backend, dtype).decode(in_torch["latents"]))
    ours, theirs = (flicker(side, video) for side in (found, in_torch["video"]))
    compression = trained(backend, dtype).config.temporal_compression_ratio
    batches = frame_batches(in_torch["latents"].shape[1], DECODED_TOGETHER)
    edges = [1 + compression * (batch.start - 1) for batch in batches[1:]]
    values = {FLICKER: ours.mean(), OFF: np.abs(ours - theirs).max(), EDGES: at_edges(ours, edges)}
    hold(record, FLICKERS, values, "trained, decoded", preset=TRAINED.label, mode="jit",
         shape="x".join(map(str, found.shape)))  # fmt: skip
    exhibit("flicker", {"flicker": ours, "expected": theirs, "psnr": quality(found, video), "edges": np.array(edges)})
