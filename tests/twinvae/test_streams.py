"""Streams on a stand-in for the network: what is left of one after an error."""

from __future__ import annotations

import numpy as np
import pytest

import twinvae
from impl_flax.autoencoder import FlaxVAE


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_stream_gives_the_chunk_that_failed_when_it_is_asked_again(error, monkeypatch):
    failed = []

    def running_sum(vae, operation, frames, cache, form):
        """Each frame batch, and all before it; the second fails the first time."""
        if cache is not None and not failed:
            failed.append(True)
            raise error
        total = np.asarray(frames) + (0 if cache is None else cache)
        return total, total[:, -1:]

    monkeypatch.setattr(FlaxVAE, "run_frame_batch", running_sum)
    vae, latents = twinvae.load("flax"), np.ones((1, 7, 1, 1, 4), np.float32)
    stream = vae.decode_stream(latents)
    chunks = [next(stream)]
    with pytest.raises(error):
        next(stream)
    np.testing.assert_array_equal(stream.cache.tiles[0], chunks[0][:, -1:])
    expected = np.concatenate([*vae.decode_stream(latents)], axis=1)
    np.testing.assert_array_equal(np.concatenate([*chunks, *stream], axis=1), expected)
