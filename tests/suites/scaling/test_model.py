"""The model of many chips, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from suites.scaling import cases
from suites.scaling.cases import ALONE, CASES, LATER, Case
from suites.scaling.model import Cost, Known, allowed, cost_at, known_of, point, seconds, times
from twinvae.jax.chips import Chip
from twinvae.jax.splits import Split, Work

CHIP = Chip("tpu", "made up", 1, 1, bandwidth=1e-3, rates={"bfloat16": 1e-3}, link=1)  # 1e9 of each in a second
# A row is a second in the first round, and 0.8 in the others. Bytes take half of that, and where devices share time 0.6
# more, so that they take longest.
KNOWN = Known(
    {8: Cost(8e9, 4e9), 2: Cost(2e9, 1e9)},
    {8: Cost(6.4e9, 3.2e9), 2: Cost(1.6e9, 0.8e9)},
    (0.2e9, 0.1e9),
    1.6e9,
    4.8e9,
    8,
)
WORK = Work(clips=1, frames=7, rows=8, together=2, halo=0.5, cells=8)  # 3, 2 and 2


def test_a_program_takes_the_longer_of_its_flops_and_its_bytes():
    assert seconds(Cost(3e9, 2e9), CHIP) == 3
    assert seconds(Cost(3e9, 4e9), CHIP) == 4


@pytest.mark.parametrize(("rows", "flops"), [(8, 8), (2, 2), (5, 5.75), (1, 1), (10, 9.5)])
def test_costs_lie_on_the_lines_between_what_was_compiled(rows, flops):
    costs = {2: Cost(2, 4), 4: Cost(5, 8), 8: Cost(8, 8)}
    assert cost_at(costs, rows).flops == flops


def test_what_does_not_shrink_with_rows_is_kept_where_there_are_fewer():
    assert cost_at({2: Cost(5, 0), 4: Cost(6, 0)}, 1).flops == 4.5


@pytest.mark.parametrize(
    ("split", "computed", "sent"),
    [
        (Split(), 8 + 2 * 6.4, 0),
        (Split(time=3), 4 + 4.8, 1.6),
        (Split(time=2), 4 + 3.2 + 2 * 4.8, 2 * 1.6),  # two rounds
        (Split(rows=4), 2 + 2 * 1.6, 0.1 + 2 * 0.05),  # one way of two
        (Split(time=2, rows=3), 1.5 + 1.2 + 2 * 1.8, 2 * 1.6 * 3 / 8 + 0.1 + 0.05),  # 3 rows, of which one fills up
    ],
)
def test_a_split_takes_its_rounds_and_what_is_sent_in_them(split, computed, sent):
    found = times(KNOWN, CHIP, WORK, split)
    assert found.computed == pytest.approx(computed)
    assert found.sent == pytest.approx(sent)


def test_the_fastest_split_is_taken_and_both_axes_are_shown_alone():
    found = point(KNOWN, CHIP, WORK, 4)
    assert found.split == Split(rows=4)
    assert found.speed_up == pytest.approx(20.8 / 5.4)
    assert found.hidden == pytest.approx(20.8 / 5.2)
    assert (found.time, found.rows) == pytest.approx((20.8 / 10.4, 20.8 / 5.4))
    assert allowed(KNOWN, CHIP, WORK) == pytest.approx(20.8 / 8)


def test_no_more_chips_are_never_slower():
    assert [point(KNOWN, CHIP, WORK, chips).speed_up for chips in (1, 2, 3, 5, 9, 24)] == sorted(
        point(KNOWN, CHIP, WORK, chips).speed_up for chips in (1, 2, 3, 5, 9, 24)
    )


def test_what_is_known_of_programs_is_told_apart_by_their_splits():
    def program(flops):
        sent = {"collective-permute bytes": 10 * flops}
        return SimpleNamespace(flops=flops, bytes_accessed=1000 - flops, counts=sent)

    found = {ALONE: 96, LATER: 80, Case(Split(rows=4)): 24, Case(Split(rows=4), first=False): 20,
             Case(Split(time=8)): 7, Case(Split(time=2, rows=4)): 5}  # fmt: skip
    known = known_of({case: program(flops) for case, flops in found.items()}, rows=96)
    assert {rows: cost.flops for rows, cost in known.first.items()} == {96: 96, 24: 24}
    assert {rows: cost.flops for rows, cost in known.later.items()} == {96: 80, 24: 20}
    assert (known.edges, known.halo, known.beside) == ((240, 200), 70, 96 - 7)


@pytest.mark.parametrize("chip", [chip for chip, listed in CASES.items() if LATER in listed])
def test_every_chip_that_is_modelled_has_the_programs_that_the_model_takes(chip):
    programs = {case: SimpleNamespace(flops=1, bytes_accessed=1, counts={"collective-permute bytes": 1})
                for case in CASES[chip]}  # fmt: skip
    known = known_of(programs, cases.ROWS)
    assert min(len(known.first), len(known.later)) >= 2
