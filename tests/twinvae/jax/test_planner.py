"""Memory budgets: sizes as people write them, and which form a call takes under one."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import numpy as np
import pytest

import twinvae
from twinvae.bench.xla_cost import NETWORK, compiled, stages
from twinvae.forms import COLUMN_SLABS, ROW_SLABS, WHOLE
from twinvae.jax.chips import CHIPS
from twinvae.jax.memory import usable_bytes
from twinvae.jax.planner import Call, Planner, steps
from twinvae.plan import Plan
from twinvae.sizes import GIB, parse_size
from twinvae.tiles import TileSettings

SHAPE = (1, 9, 128, 192, 3)  # larger than a tile, and one frame batch
SLAB = 200_000  # bytes, so that frames as small as these have slabs


@pytest.mark.parametrize(
    ("text", "size"),
    [("16GiB", 16 * GIB), ("15.75 GiB", 15.75 * GIB), ("16 gb", 16e9), ("512MiB", 2**29), (7, 7), ("1000", 1000)],
)
def test_a_size_is_read_as_people_write_it(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["much", "16 GiBs", "-1GiB", "0", 0, -5, True, None, ""])
def test_what_is_no_size_is_refused_with_the_way_to_write_one(text):
    with pytest.raises(ValueError, match="16GiB"):
        parse_size(text)


@pytest.fixture(scope="module")
def vae():
    vae = twinvae.load("flax")
    vae.slab_bytes = SLAB
    vae.tile_settings = TileSettings(64, 96, 1 / 4, 1 / 4)
    return vae


@pytest.fixture(scope="module")
def peaks(vae):
    """Of the forms that are tried where the budget is next to nothing, and the error that names the smallest."""
    vae.set_memory_budget("1KiB")
    with pytest.raises(MemoryError, match=r"fits in no form into 0\.0 MiB: .* would do") as error:
        vae.plan(SHAPE, "encode")
    forms = {}
    for budget in ("64GiB", None):
        vae.set_memory_budget(budget)
        plan = vae.plan(SHAPE, "encode")
        forms[plan.form] = plan.peak_bytes
    vae.set_memory_budget(forms[WHOLE] - 1)
    plan = vae.plan(SHAPE, "encode")
    return forms | {plan.form: plan.peak_bytes, "error": str(error.value)}


def test_the_fastest_form_that_fits_is_taken(vae, peaks):
    assert set(peaks) == {WHOLE, ROW_SLABS, "error"}
    assert peaks[ROW_SLABS] < 0.8 * peaks[WHOLE]


def test_tiles_are_taken_where_no_exact_form_fits_and_said_to_give_other_numbers(vae, peaks):
    vae.set_memory_budget(peaks[ROW_SLABS] - 1)
    plan = vae.plan(SHAPE, "encode")
    assert plan.grid == vae.possible_grid("encode", SHAPE)
    assert not plan.exact
    assert [form for form, _ in plan.considered][:2] == [WHOLE, ROW_SLABS]
    assert "in tiles" in str(plan)
    assert plan.peak_bytes <= plan.budget_bytes


def test_a_call_does_what_was_planned_and_compiles_nothing_again(vae, peaks):
    video = np.linspace(-1, 1, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    vae.set_memory_budget(None)
    whole = vae.encode(video).moments
    vae.set_memory_budget(peaks[WHOLE] - 1)
    vae.plan(SHAPE, "encode")
    with stages() as found:
        in_slabs = vae.encode(video).moments
    assert compiled(found, NETWORK) == 0
    np.testing.assert_allclose(in_slabs, whole, atol=1e-5)
    assert np.any(np.asarray(in_slabs) != np.asarray(whole)), "the forms round differently: one was run twice"


def test_a_budget_needs_programs_that_are_compiled():
    with pytest.raises(ValueError, match="jit=True"):
        twinvae.load("flax", jit=False, memory_budget="1GiB")
    with pytest.raises(ValueError, match=r"'torch' backend compiles nothing.* leave memory_budget out"):
        twinvae.load("torch", memory_budget="1GiB")
    with pytest.raises(ValueError, match="16GiB"):
        twinvae.load("flax", memory_budget="a lot")


def test_a_program_is_lowered_in_the_form_that_the_budget_asks_for(vae):
    shape = (1, 9, 32, 48, 3)
    vae.set_memory_budget(None)
    whole = vae.lower_encode(shape).as_text()
    vae.set_memory_budget("1KiB")
    vae.slab_bytes = 1000
    lean = vae.lower_encode(shape).as_text()
    vae.slab_bytes = SLAB
    vae.set_memory_budget(None)
    assert "stablehlo.while" not in whole
    assert "stablehlo.while" in lean


def test_a_cpu_has_the_memory_of_its_machine():
    assert usable_bytes(jax.devices("cpu")[0]) > GIB


@pytest.mark.parametrize(
    ("chip", "allocator", "usable"),
    [
        ("h100", {"bytes_limit": 123}, 123),  # as XLA_PYTHON_CLIENT_MEM_FRACTION has it
        ("h100", None, None),
        ("v6e", {"bytes_limit": 123}, CHIPS["v6e"].usable_bytes),
        (None, {"bytes_limit": 123}, 123),
    ],
)
def test_a_card_has_what_its_allocator_may_take_and_a_tpu_what_its_programs_may(chip, allocator, usable):
    kind = CHIPS[chip].device_kind if chip else "a card that nobody knows"
    platform = CHIPS[chip].kind if chip else "gpu"
    device = SimpleNamespace(platform=platform, device_kind=kind, memory_stats=lambda: allocator)
    assert usable_bytes(device) == usable


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan("decode", (1, 2, 3, 4, 16), "whole", None, True, None, None), "whole, far below the budget"),
        (
            Plan(
                "decode",
                (1, 2, 3, 4, 16),
                "row slabs",
                TileSettings(64, 64).grid("decode", 9, 9, 8),
                False,
                2 * GIB,
                3 * GIB,
                (("whole", None), ("row slabs", 9 * 2**19)),
            ),
            "row slabs in tiles, 2.00 GiB predicted, budget 3.00 GiB (whole: does not fit the device; row slabs: "
            "4.5 MiB)",
        ),
    ],
)
def test_a_plan_says_what_it_needs_and_what_was_tried(plan, words):
    assert str(plan) == f"decode [1, 2, 3, 4, 16]: {words}"


@pytest.mark.parametrize(("latents", "frames_at_once", "frames"), [(5, 9, 17), (4, 8, 16), (1, 1, 1)])
def test_nothing_is_compiled_where_there_is_room_for_sixteen_of_the_largest_activation(
    latents, frames_at_once, frames, vae
):
    pixels, channels = 32 * 56, max(vae.config.block_out_channels[:2])
    parameters = sum(tensor.nbytes for tensor in vae.state_dict().values())
    clips = 2 * frames * pixels * vae.config.out_channels
    enough = parameters + 4 * (16 * frames_at_once * pixels * channels + clips)
    shape = (1, latents, 4, 7, vae.config.latent_channels)
    for budget, form in ((enough, WHOLE), (enough - 1, None)):
        vae.set_memory_budget(budget)
        assert vae.planner.roomy_form(vae.call_of("decode", shape)) == form


CLIP, VIDEO = (1, 5, 4, 6, 4), (1, 17, 32, 48, 3)  # latents, and what they give


def test_clips_that_take_turns_are_all_there_beside_a_step_and_what_they_give_is_joined(vae):
    given, made = np.prod(CLIP), np.prod(VIDEO)
    alone = Call("decode", CLIP, 2, forms=(WHOLE,))
    three = alone._replace(turns=3)
    for step, of_one in zip(steps(vae.config, three, 4), steps(vae.config, alone, 4), strict=True):
        assert step.shape == of_one.shape
        assert step.beside - of_one.beside == 4 * (3 * given + 2 * made)  # all inputs, and what the others gave
    planner = Planner(vae.config, "float32", lambda *_: None, 7, lambda _: 0)
    assert planner.peak(three, WHOLE) == 7 + 4 * 3 * (given + 2 * made)
    short = three._replace(shape=(1, 2, *CLIP[2:]))  # a frame batch each: alone, nothing is joined
    assert planner.peak(short, WHOLE) == 7 + 4 * 3 * (2 * given // 5 + 2 * 8 * made // 17)
    assert planner.rough_peak(three) - planner.rough_peak(alone) == 4 * 2 * 2 * made
    assert planner.plan(three).shape == (3, *CLIP[1:])


GRID = TileSettings(16, 24, 0, 0).grid("decode", 4, 6, 8)
# Of every field a value that makes another plan, and what else a call has then.
OTHERS = {
    "operation": ("encode", {}),
    "shape": ((1, 5, 4, 7, 4), {}),
    "batch_size": (4, {}),
    "grid": (GRID, {}),
    "spare": (GRID, {"slab_bytes": 10**6, "budget": 10**8}),  # fits in tiles alone
    "forms": ((ROW_SLABS, WHOLE), {}),
    "slab_bytes": (10**6, {}),
    "budget": (10**9, {}),
    "sharding": (jax.sharding.SingleDeviceSharding(jax.devices()[0]), {}),
    "streamed": (True, {}),
    "turns": (3, {}),
    "together": (2, {}),
}


@pytest.mark.parametrize("field", Call._fields)
def test_a_plan_is_not_taken_from_that_of_a_call_which_differs_in_any_field(field, vae):
    value, beside = OTHERS[field]
    one = Call("decode", CLIP, 2, forms=(WHOLE, COLUMN_SLABS))._replace(**beside)
    now = [one]

    def lower(operation, shape, sharding, first, form, alone):  # the peak itself; a VAE's own knows its slabs
        return now[0].slab_bytes * int(np.prod(shape)) + 10**9 * (sharding is not None)

    def planned(planner, call):
        now[0] = call
        try:
            return planner.plan(call)
        except MemoryError as error:
            return str(error)

    def fresh():
        return Planner(vae.config, "float32", lower, 0, lambda program: program)

    other = one._replace(**{field: value})
    expected = {call.key: planned(fresh(), call) for call in (one, other)}
    assert len({str(plan) for plan in expected.values()}) == 2, "both have one plan: this value shows nothing"
    for calls in ((one, other), (other, one)):
        planner = fresh()
        assert [planned(planner, call) for call in calls] == [planned(fresh(), call) for call in calls]


def test_a_call_in_slices_is_planned_for_one_clip_and_a_stream_for_all_that_go_through_together(vae, monkeypatch):
    ran = []

    def run(operation, frames, cache, form=WHOLE, **_):
        ran.append((frames.shape[0], form))
        return frames, None

    peaks = Planner(vae.config, vae.dtype, lambda _, shape, *rest: (shape[0], rest[2]), 0,
                    lambda program: program[0] * (10 * GIB if program[1] == WHOLE else GIB))  # fmt: skip
    monkeypatch.setattr(vae, "planner", peaks)
    monkeypatch.setattr(vae, "run_frame_batch", run)
    monkeypatch.setattr(vae, "use_slicing", True)
    monkeypatch.setattr(vae, "memory_budget", 11 * GIB)  # of one clip whole, and of three in slabs
    latents = np.zeros((3, *CLIP[1:]), np.float32)
    assert vae.plan(latents.shape).form == WHOLE
    vae.decode(latents)
    assert set(ran) == {(1, WHOLE)}
    ran.clear()
    list(vae.decode_stream(latents))
    assert set(ran) == {(3, ROW_SLABS)}


@pytest.mark.parametrize(("budget", "form"), [(None, WHOLE), ("64GiB", WHOLE), ("1MiB", COLUMN_SLABS)])
def test_inside_of_somebodys_program_what_has_room_without_a_doubt_runs_whole_and_the_rest_leanest(vae, budget, form):
    vae.set_memory_budget(budget)
    taken = []
    jax.eval_shape(lambda z: taken.append(vae.layout("decode", z)) or z, np.zeros((1, 2, 8, 8, 4), np.float32))
    assert taken == [(form, None)]
