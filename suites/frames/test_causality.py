"""What a frame reaches: all of its own frame batch, because GroupNorm's statistics run over it, all of every later one
through the conv cache, and nothing of an earlier one.
"""

from __future__ import annotations

import numpy as np
import pytest

from suites.frames.bars import REACH
from twinvae.bench.bars import check_shapes, hold
from twinvae.bench.halves import label, output_batches, whole
from twinvae.frames import frame_batches
from twinvae.registry import REFERENCE

# Frames in a clip, and how many go through the network together.
CLIPS = [pytest.param("encode", 13, 4, marks=pytest.mark.needs("batches")), ("decode", 7, 2)]

pytestmark = pytest.mark.only(once=True, large=False, dtype=("float64",))


@pytest.mark.parametrize(("operation", "count", "size"), CLIPS)
def test_a_frame_reaches_its_own_frame_batch_and_later_ones_but_none_before(
    operation, count, size, load, vae, model, dtype, once, options, record, exhibit
):
    case, config, cell = label(operation, count, size), model.config, model.config.spatial_compression
    shape = (cell, 2 * cell, config.in_channels) if operation == "encode" else (1, 2, config.latent_channels)
    clip = np.random.default_rng([count, options.seed]).uniform(-1, 1, (1, count, *shape))
    batches = {"batches_in": numbered(part.stop - part.start for part in frame_batches(count, size)),
               "batches_out": numbered(output_batches(vae, operation, count, size))}  # fmt: skip
    expected = batches["batches_in"][:, None] <= batches["batches_out"][None, :]

    reference = load(REFERENCE, model, "eager", dtype)
    of_diffusers = once((__name__, model.label, case, dtype), lambda: changes(reference, operation, clip, size))
    np.testing.assert_array_equal(of_diffusers > 0, expected, err_msg="the rule is not diffusers' own")

    found = changes(vae, operation, clip, size)
    check_shapes({"frames in and out": found}, {"frames in and out": expected})
    pairs = {"later frames that reach earlier batches": np.count_nonzero((found > 0) & ~expected),
             "earlier frames that do not reach on": np.count_nonzero((found == 0) & expected)}  # fmt: skip
    hold(record, REACH, pairs, case, operation=operation)
    exhibit(f"reach, {operation}", {"change": found, **batches}, caption=f"{operation} {case}")
    np.testing.assert_array_equal(found > 0, expected)


def changes(vae, operation, clip, size):
    """The largest change of every output frame (columns) when one value of an input frame (rows) changes."""
    before, rows = whole(vae, operation, clip, size), []
    for frame in range(clip.shape[1]):
        changed = clip.copy()
        changed[0, frame, 0, 0, 0] += 0.5
        rows.append(np.abs(whole(vae, operation, changed, size) - before).max(axis=(0, 2, 3, 4)))
    return np.stack(rows)


def numbered(lengths):
    """The number of its frame batch for every frame."""
    return np.concatenate([np.full(length, number) for number, length in enumerate(lengths)])
