"""The rows of settings: every pair of values that has a meaning is in one, and nothing that has none."""

from __future__ import annotations

import itertools

from suites.parity import settings

ROWS = settings.rows()


def test_every_two_values_that_go_together_are_in_a_row():
    held = set().union(*map(settings.combinations_of, ROWS))
    missing = [
        ((name, value), (other, wanted))
        for (name, values), (other, others) in itertools.combinations(settings.FACTORS.items(), 2)
        for value, wanted in itertools.product(values, others)
        if ((name, value), (other, wanted)) not in held and goes_together({name: value, other: wanted})
    ]
    assert missing == []


def goes_together(chosen: settings.Row) -> bool:
    """Whether some row may hold these values: whether what they ask of others leaves each a value."""
    left = {name: [chosen[name]] if name in chosen else list(values) for name, values in settings.FACTORS.items()}
    while True:
        before = {name: list(values) for name, values in left.items()}
        for name, values, other, wanted in settings.ASKS:
            if all(value in values for value in left[name]):
                left[other] = [value for value in left[other] if value in wanted]
            if not any(value in wanted for value in left[other]):
                left[name] = [value for value in left[name] if value not in values]
        if not all(left.values()):
            return False
        if left == before:
            return True


def test_every_row_is_one_that_may_be_and_names_every_factor():
    for row in ROWS:
        assert settings.allowed(row)
        assert {name: row[name] in values for name, values in settings.FACTORS.items()} == dict.fromkeys(row, True)


def test_backends_that_share_rows_run_all_of_them_and_each_the_pairs_of_its_own_slabs():
    taken = settings.shared(ROWS, ("one", "other"))
    assert all(taken)
    for backend in ("one", "other"):
        own = [row for row, backends in zip(ROWS, taken, strict=True) if backend in backends]
        assert len(own) < 0.7 * len(ROWS)
        slabs = [
            {(row["asked"], row["quant"]) for row in some if row["asked"] in settings.SLABS} for some in (own, ROWS)
        ]
        assert slabs[0] == slabs[1]
        for name, values in settings.FACTORS.items():
            assert {row[name] for row in own} == set(values), name


def test_a_last_tile_is_one_that_pytorch_can_encode():
    for row in ROWS:
        if row["tiling"] != "none" and settings.half_of(row) == "encode":
            tile, overlap = settings.tile_of(row)
            stride, least = int(tile * (1 - overlap)), settings.compression(row)
            sides = settings.shape_of(row)[2:4]
            assert all((side - 1) % stride + 1 >= least for side in sides)
            assert max(sides) > tile, "nothing is tiled"


def test_the_same_rows_are_written_and_read(tmp_path, monkeypatch):
    monkeypatch.setattr(settings, "ROWS", tmp_path / "rows.jsonl")
    settings.keep(ROWS[:1])
    settings.keep(ROWS[1:2])
    assert settings.rows() == ROWS[:2]
