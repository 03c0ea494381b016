"""Tiles go through compiled programs by their shape: no more of them are compiled than there are shapes."""

from __future__ import annotations

import numpy as np
import pytest

import twinvae
from suites.tiling.bars import PROGRAMS
from twinvae.bench.bars import hold
from twinvae.bench.xla_cost import NETWORK, compiled, stages
from twinvae.frames import frame_batches
from twinvae.tiles import tile_shapes

pytestmark = pytest.mark.needs("tiling", "step")

# A clip, then a longer one of larger frames, cut into tiles and frame batches of the same shapes.
TILE, OVERLAP, BATCH = (24, 16), (0, 1 / 2), 2
FIRST = {"decode": (7, 3, 3), "encode": (7, 24, 24)}
LARGER = {"decode": (9, 6, 4), "encode": (9, 48, 32)}


@pytest.mark.only(mode=("jit",), dtype=("float32",), large=False)
@pytest.mark.parametrize("operation", FIRST)
def test_one_program_is_compiled_for_a_tile_shape_and_frame_batch_length(
    operation, model, backend, mode, dtype, record
):
    vae = twinvae.load(backend, **model.source, dtype=dtype)
    vae.enable_tiling(*TILE, *OVERLAP)
    vae.num_sample_frames_batch_size = vae.num_latent_frames_batch_size = BATCH
    channels = model.config.in_channels if operation == "encode" else model.config.latent_channels
    counts = []
    for frames, height, width in (FIRST[operation], LARGER[operation]):
        with stages() as found:
            getattr(vae, operation)(np.zeros((1, frames, height, width, channels), np.float32))
        counts.append(compiled(found, NETWORK))
    frames, *size = FIRST[operation]
    shapes = tile_shapes(vae.tile_settings.grid(operation, *size, model.config.spatial_compression))
    lengths = {batch.stop - batch.start for batch in frame_batches(frames, BATCH)}
    values = {"programs compiled": counts[0], "programs compiled for more tiles and frames": counts[1]}
    limit = len(set(shapes)) * len(lengths)
    bars = PROGRAMS | {"programs compiled": PROGRAMS["programs compiled"]._replace(limit=limit)}
    assert counts[0], "no program was seen to be compiled: the count says nothing"
    case = f"{len(shapes)} tiles of {len(set(shapes))} shapes, {len(lengths)} lengths of frame batches"
    hold(record, bars, values, case, operation=operation)
