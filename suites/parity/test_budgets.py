"""Memory budgets beside other settings: a call does what the plan says, in what the compiler says; nothing is stale."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pytest

from suites.parity import settings
from suites.parity.bars import SETTINGS
from twinvae.bench.bars import check_shapes, hold
from twinvae.bench.halves import stream
from twinvae.bench.metrics import relative_l2
from twinvae.jax.memory import peak_bytes
from twinvae.jax.planner import Planner
from twinvae.tiles import tile_shapes

pytestmark = [pytest.mark.needs("weights", "step"), pytest.mark.only(mode=("jit",), dtype=("float64",))]

# Cells as many as a tile has, and the same frame batches where a case is not about them: few programs to compile.
PLAIN = {name: values[0] for name, values in settings.FACTORS.items()} | {"together": (3, 2), "size": (2, 2)}


class Case(NamedTuple):
    """A call beside a budget.

    Args:
        row: settings, beside those of `PLAIN`.
        room: for the leanest way that the settings leave, or for the leanest of all, which is in tiles.
    """

    row: dict[str, Any]
    room: str = "form"
    streamed: bool = False


CASES = {
    "a larger first frame batch": Case({"asked": "decode", "frames": (2, 1)}),
    "a batch of clips": Case({"asked": "decode", "frames": (2, 1), "batch": 4}),
    "a batch of videos": Case({"asked": "encode", "frames": (2, 1), "batch": 4}),
    "clips that take turns": Case({"asked": "decode", "frames": (2, 1), "batch": 4, "slicing": True}),
    "a stream": Case({"asked": "decode", "frames": (2, 1)}, streamed=True),
    "tiles": Case({"asked": "decode", "frames": (2, 1), "size": (4, 2), "tiling": "no overlap"}),
    "planned tiles": Case({"asked": "decode", "frames": (2, 1), "size": (4, 4), "tiling": "no overlap"}, "tiles"),
}


@pytest.fixture
def vae(backend, mode, dtype, options, once):
    """A VAE as it was loaded, and diffusers' model."""
    model = once((__name__,), lambda: settings.drawn_model(PLAIN, np.random.default_rng(options.seed)))

    def load():
        vae = settings.load(model, backend, PLAIN)
        vae.lower_step = vae.planner.lower = cache(vae.lower_step)  # of one architecture, in slabs of one size
        return vae

    vae = once((__name__, backend), load)
    loaded = dict(vars(vae))
    yield vae, model
    vars(vae).update(loaded)


@pytest.mark.parametrize("name", CASES)
def test_a_call_under_a_budget_does_what_the_plan_says_in_what_the_compiler_says(name, vae, options, record):
    (vae, model), case = vae, CASES[name]
    row = PLAIN | case.row
    half, clip = settings.half_of(row), settings.clip_of(row, np.random.default_rng(options.seed))
    settings.set_backend(vae, row)
    budget = min(vae.planner.peak(vae.call_of(half, clip.shape), form) for form in vae.call_of(half, clip.shape).ways)
    if case.room == "tiles":  # that are set, and not asked for
        vae.disable_tiling()
        spare = vae.call_of(half, clip.shape).ways
        assert budget < min(vae.planner.peak(vae.call_of(half, clip.shape), form) for form in spare), (
            "tiles save nothing"
        )
    vae.set_memory_budget(budget)
    plan = vae.plan(clip.shape, half)
    assert plan.peak_bytes <= plan.budget_bytes == budget
    assert plan.exact == (case.room != "tiles")
    assert (plan.grid is not None) == (row["tiling"] != "none")

    with mock.patch.object(vae, "run_frame_batch", wraps=vae.run_frame_batch) as ran:
        if case.streamed:
            found = np.concatenate([np.asarray(chunk) for chunk in stream(vae, half, clip)], axis=1)
        else:
            found = np.asarray(vae.encode(clip).moments if half == "encode" else vae.decode(clip))
    batches = [
        (frames.shape, cache is None, form) for _, frames, cache, form, *_ in (call.args for call in ran.mock_calls)
    ]
    assert {form for *_, form in batches} == {plan.form}
    tiles = tile_shapes(plan.grid) if plan.grid else [clip.shape[2:4]]
    assert {shape[2:4] for shape, *_ in batches} == set(tiles)
    for shape, first, form in dict.fromkeys(batches):
        peak = peak_bytes(vae.lower_step(half, shape, None, first, form).compile())
        beside = clip.nbytes - np.prod(shape) * clip.itemsize  # the clip lies there, whatever is cut from it
        assert peak + beside <= plan.peak_bytes, f"{shape}, first {first}, in {form}"

    expected = settings.of_diffusers(model, row, clip)
    check_shapes({"output": found}, {"output": expected})
    hold(record, SETTINGS["float64"], {"relative_l2": relative_l2(found, expected)}, f"settings, budget: {name}",
         operation=half)  # fmt: skip


def least(vae, half, clip) -> int:
    """The peak of the leanest form, as the settings are."""
    call = vae.call_of(half, clip.shape)
    return min(vae.planner.peak(call, form) for form in call.ways)


CHANGES = {
    "frame batches": lambda vae: setattr(vae, "num_latent_frames_batch_size", 1),
    "tiles": lambda vae: vae.enable_tiling(4, 4, 0.0, 0.0),
    "a budget": lambda vae: vae.set_memory_budget("1GiB"),
    "a form": lambda vae: setattr(vae, "forms", vae.forms[1:] or vae.forms),
    "slabs": lambda vae: setattr(vae, "slab_bytes", 1),
    "slices": lambda vae: vae.enable_slicing(),
}


def test_a_plan_is_the_same_whatever_was_planned_before(vae):
    vae, _ = vae
    row = PLAIN | {"asked": "decode", "frames": (2, 1), "size": (4, 2)}
    clips = [settings.shape_of(row | {"batch": batch}) for batch in (1, 2)]

    def stand_in(operation, shape, sharding, first, form, alone):
        """A number that depends on all that a program does, and takes no compiler."""
        return math.prod(shape) * (3 - first + alone) + len(form) + vae.slab_bytes

    def planner() -> Planner:
        return Planner(vae.config, vae.dtype, stand_in, vae.planner.parameter_bytes, lambda peak: peak)

    vae.planner = planner()
    for name, change in CHANGES.items():
        for shape in clips:
            vae.plan(shape)
        change(vae)
        for shape in clips:
            fresh = planner().plan(vae.call_of("decode", shape))
            assert vae.plan(shape) == fresh, f"{shape} after another setting of {name}"
