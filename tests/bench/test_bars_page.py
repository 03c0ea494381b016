"""Every bar of every suite: data, with a reason, on docs/bars.md, and the one that its values are held to."""

from __future__ import annotations

import math

import pytest

from tests.bench.synthetic import RUN, write_run
from twinvae.bench import bars_page as page
from twinvae.bench.additions import bars_of
from twinvae.bench.bars import SHOWN_ONLY, Bar, Held, because, hold
from twinvae.bench.baselines import baseline_path, updated, write_baseline
from twinvae.bench.places import suite_names
from twinvae.bench.records import Key, Record

ALL = [
    pytest.param(held, metric, id=f"{suite}: {held.what}: {metric}")
    for suite in suite_names()
    for held in bars_of(suite)
    for metric in held.bars
]


def test_the_page_is_that_of_the_bars_and_the_baselines():
    assert page.PAGE.read_text(encoding="utf-8") == page.bars_page(), f"write it again: {page.COMMAND}"


@pytest.mark.parametrize("suite", suite_names())
def test_every_value_of_a_baseline_is_held_to_a_bar_that_the_page_shows(suite):
    unheld = [key for key, _ in page.baseline_values(suite) if page.held_by(bars_of(suite), key) is None]
    assert not unheld


@pytest.mark.parametrize(("held", "metric"), ALL)
def test_a_bar_has_a_reason_and_makes_a_record(held, metric):
    bar = held.bars[metric]
    assert len(bar.why) > 20
    assert Record(suite="s", case="c", metric=metric, value=1.0, **bar.fields).tolerance == bar.tolerance


def test_what_is_held_has_one_title_and_each_of_its_fields_is_a_keys():
    for suite in suite_names():
        helds = bars_of(suite)
        assert len({held.what for held in helds}) == len(helds)
        assert {field for held in helds for field in held.where} <= set(Key._fields)


@pytest.fixture
def sections(monkeypatch, tmp_path):
    """The page of one suite that holds what it is given, over a baseline of `values`: fields, then the value."""

    def sections(helds, values):
        records = [Record(suite="parity", value=value, **fields) for fields, value in values]
        write_baseline(baseline_path(tmp_path, "cpu", "parity"), updated(None, write_run(tmp_path / "r", records, RUN)))
        monkeypatch.setattr(page, "suite_names", lambda: ["parity"])
        monkeypatch.setattr(page, "bars_of", lambda suite: helds)
        return page.bars_page(tmp_path).split("### ")[1:]

    return sections


def cells(section: str, metric: str) -> list[str]:
    row = next(line for line in section.splitlines() if line.startswith(f"| {metric} "))
    return [cell.strip() for cell in row.strip("|").split("|")]


def test_the_page_shows_a_bar_beside_the_worst_value_that_is_held_to_it(sections):
    bars = {
        "error": Bar(1e-3, 2, 1e-9, unit="x", why="by rounding"),
        "likeness": Bar(1 - 1e-9, 1 + 1e-9, 0.5, "higher", why="by rounding"),
        "count": Bar(0, better="equal", why="counted"),
        "time": Bar(None, SHOWN_ONLY, why="shown"),
    }
    values = [({"case": case, "metric": metric}, value) for metric, found in
              (("error", (1e-6, 3e-5, math.nan)), ("likeness", (0.75, 0.5)), ("count", (0, 7)))
              for case, value in zip("abc", found, strict=False)]  # fmt: skip
    (section,) = sections((Held("all", bars),), values)
    assert cells(section, "error") == ["error", "0.001", "2", "1e-09", "lower", "x", "3e-05 (2 values)"]
    assert cells(section, "likeness") == ["likeness", "1 - 1e-09", "1 + 1e-09", "0.5", "higher", "", "0.5 (2 values)"]
    assert cells(section, "count") == ["count", "= 0", "1", "", "equal", "", "0 to 7 (2 values)"]
    assert cells(section, "time") == ["time", "", "shown only", "", "lower", "", "none"]
    assert section.splitlines()[-3:] == ["- error, likeness: by rounding", "- count: counted", "- time: shown"]


def test_a_value_is_held_to_the_first_bar_that_is_about_it_and_a_reason_is_told_once(sections):
    bar = {"error": Bar(why="because of rounding")}
    helds = Held("norms", bar, {"case": "norm.*"}), Held("others", bar), Held("nobody", bar)
    found = sections(
        helds, [({"case": case, "metric": "error"}, i) for i, case in enumerate(("norm", "a norm", "conv"))]
    )
    assert [cells(section, "error")[-1] for section in found] == ["0 (1 value)", "2 (2 values)", "none"]
    assert "- All: because of rounding\n" in found[0]
    assert "- All: as for *parity, norms*.\n" in found[1]


def test_a_value_is_about_what_all_fields_match_whole():
    held = Held("x", {"m": Bar(1.0)}, {"case": "norm", "dtype": "float.*"})
    key = Key("s", "norm", dtype="float32", metric="m")
    assert held.bar(key) == Bar(1.0)
    for other in ({"case": "norm, odd"}, {"dtype": "bfloat16"}, {"metric": "n"}):
        assert held.bar(key._replace(**other)) is None


def test_bars_of_one_reason_keep_their_own_before_it():
    bars = because("shared", a=Bar(1.0), b=Bar(2.0, why="own"))
    assert [bar.why for bar in bars.values()] == ["shared", "own shared"]


def test_held_values_are_recorded_with_their_bars():
    records = []
    bars = {"error": Bar(1e-3, 2, 1e-9, unit="x", why="by rounding"), "other": Bar(why="x")}
    hold(lambda **fields: records.append(fields), bars, {"error": 0.5}, "norm", operation="decode")
    assert records == [
        {"case": "norm", "metric": "error", "value": 0.5, "limit": 1e-3, "tolerance": 2, "floor": 1e-9,
         "better": "lower", "unit": "x", "operation": "decode"}
    ]  # fmt: skip
