"""The speed page: what gates, what only shows, the history of saved runs, and what a busy machine does to all of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from suites.speed.history import read_history, with_this_run
from tests.bench.synthetic import RUN, write_run
from twinvae.bench.baselines import Entry, baseline_path, updated, write_baseline
from twinvae.bench.records import Record, Run
from twinvae.bench.report import write_report
from twinvae.bench.verdicts import doubt, incomparable, judge, judge_run

SPEED = RUN.model_copy(update={"suite": "speed"})
CONTENDERS = {("flax", "jit"): 0.6, ("flax", "eager"): 4.0, ("torchax", "jit"): 0.9, ("torch", "jit"): 0.95}
GROUP = {"operation": "decode", "dtype": "float32", "preset": "tiny", "shape": "16x32x48"}


def ratio(value: float = 1.0, half: float = 0.02, **fields: Any) -> Record:
    shared = {"suite": "speed", "case": "warm call", "metric": "time over PyTorch", "unit": "x", "kind": "ratio",
              "tolerance": 1.08, "interval": (value * (1 - half), value * (1 + half)), "runs": 10}  # fmt: skip
    return Record(value=value, **(shared | fields))


def entry(value: float | None = 1.0) -> Entry:
    return Entry(case="warm call", metric="time over PyTorch", value=value)


def busy(value: float) -> Record:
    return ratio(value, interval=(0.0, math.inf), note="other work took 50 % of the cores: close it and run again")


def speed_records(factor: float = 1.0) -> list[Record]:
    records = []
    for (backend, mode), value in {**CONTENDERS, ("torch", "eager"): 1.0}.items():
        where = GROUP | {"backend": backend, "mode": mode, "test": "suites/speed/test_calls.py::test"}
        value *= factor if (backend, mode) == ("flax", "jit") else 1.0
        if (backend, mode) != ("torch", "eager"):
            records.append(ratio(value, **where))
        shared = {"suite": "speed", "kind": "absolute", **where}
        seconds = {"metric": "time of a call", "value": value / 10, "unit": "s", "tolerance": 1.5, "case": "warm call"}
        records.append(Record(**shared, **seconds))
        for stage, part in {"whole": 9.0, "tracing": 1.0, "lowering": 1.0, "compiling": 6.0, "running": 1.0}.items():
            records.append(Record(metric=f"first call, {stage}", value=part, case="first call", **shared))
    return records


# The gate


@pytest.mark.parametrize(
    ("record", "status"),
    [
        (ratio(1.15), "regressed"),
        (ratio(1.15, half=0.07), "inconclusive"),
        (ratio(1.05), "pass"),
        (ratio(1.07), "inconclusive"),
        (ratio(0.8), "improved"),
        (ratio(0.9), "improved"),
        (ratio(0.95), "pass"),
        (busy(1.5), "inconclusive"),
        (busy(0.02), "inconclusive"),
        (ratio(1.5, tolerance=math.inf), "pass"),
        (ratio(1.5, tolerance=math.inf, limit=1.2), "wrong"),
        (ratio(1.1, tolerance=math.inf, limit=1.2), "pass"),
    ],
)
def test_a_ratio_is_regressed_when_its_whole_interval_is_past_the_baseline(record, status):
    assert judge(record, entry()).status == status


def test_a_busy_machine_is_no_regression_and_the_reason_says_what_to_do():
    verdict = judge(busy(3.0), entry())
    assert (verdict.status, verdict.reason) == ("inconclusive", busy(3.0).note)
    assert judge(busy(3.0)).status == "new"
    assert judge(busy(3.0).model_copy(update={"limit": 0.5})).status == "inconclusive"


def test_a_ratio_past_a_baseline_of_another_machine_or_pytorch_is_inconclusive():
    there = SPEED.model_copy(update={"machine": "another"})
    newer = SPEED.model_copy(update={"versions": {**SPEED.versions, "torch": "9"}})
    jax = SPEED.model_copy(update={"versions": {**SPEED.versions, "jax": "9"}})
    for source, status in ((there, "inconclusive"), (newer, "inconclusive"), (jax, "regressed"), (SPEED, "regressed")):
        verdict = judge(ratio(1.5), entry(), doubt=doubt(SPEED, source, "ratio"))
        assert verdict.status == status
    assert "nox -s baseline" in judge(ratio(1.5), entry(), doubt=doubt(SPEED, there, "ratio")).reason
    assert judge(ratio(0.5), entry(), doubt=doubt(SPEED, there, "ratio")).status == "pass"


def test_absolute_times_are_compared_on_the_same_machine_only():
    there = SPEED.model_copy(update={"machine": "another"})
    assert incomparable(SPEED, there, "absolute")
    assert not incomparable(SPEED, SPEED, "absolute")


@pytest.mark.parametrize(
    ("change", "compared"),
    [
        ({}, True),
        ({"versions": {**RUN.versions, "torch": "9"}}, True),
        ({"machine": "another"}, True),
        ({"versions": {**RUN.versions, "jax": "9"}}, False),
        ({"versions": {**RUN.versions, "jaxlib": "9"}}, False),
        ({"device": "Another processor"}, False),
        ({"cores": 64}, False),
    ],
)
def test_what_a_compiler_made_is_compared_where_it_means_the_same(change, compared, tmp_path):
    copies = Record(suite="speed", case="first frame batch", metric="copies", value=5, of_compiler=True)
    programs = Record(suite="speed", case="compilations", metric="programs run", value=5)
    before = [one.model_copy(update={"value": 4}) for one in (copies, programs)]
    baseline = updated(None, write_run(tmp_path, before, SPEED.model_copy(update=change)))
    found = judge_run(write_run(tmp_path, [copies, programs], SPEED), baseline)
    assert [verdict.status for verdict in found] == ["regressed" if compared else "pass", "regressed"]


def test_a_disturbed_value_becomes_no_baseline(tmp_path):
    first = updated(None, write_run(tmp_path, [ratio(1.0)], SPEED))
    again = updated(first, write_run(tmp_path, [busy(0.01)], SPEED))
    assert [one.value for one in again.entries] == [1.0]
    assert updated(None, write_run(tmp_path, [busy(0.01)], SPEED)).entries == ()


# The page


def page(tmp_path: Path, records: list[Record], run: Run = SPEED, **ending: Any) -> tuple[str, Any]:
    write_run(tmp_path, records, run, **ending)
    summary = write_report(tmp_path, tmp_path / "baselines", run.platform)
    return (tmp_path / run.platform / "speed.md").read_text(), summary


def test_without_a_baseline_everything_is_new_and_the_page_says_how_to_accept_it(tmp_path):
    text, summary = page(tmp_path, speed_records())
    assert not summary.failed
    assert "nothing got worse" in text.splitlines()[0]
    assert "`nox -s baseline` makes one" in text
    assert "speed-of-calls-tiny.svg" in text
    assert "speed-first-calls-tiny.svg" in text
    assert "speed-eager-and-jit-tiny.svg" in text
    assert "speed-against-baseline.svg" not in text


def test_the_page_says_first_what_became_slower(tmp_path):
    baseline = updated(None, write_run(tmp_path, speed_records(), SPEED))
    write_baseline(baseline_path(tmp_path / "baselines", SPEED.platform, "speed"), baseline)
    text, summary = page(tmp_path, speed_records(1.2))
    assert summary.failed
    assert "got worse" in text.splitlines()[0]
    assert "time over PyTorch: 0.6 → 0.72 (" in text
    assert "speed-against-baseline.svg" in text


def test_every_time_has_its_spread_and_its_rounds(tmp_path):
    text, _ = page(tmp_path, speed_records())
    row = next(line for line in text.splitlines() if "flax jit" in line and line.startswith("| tiny"))
    assert "0.6 (0.588 to 0.612)" in row


def test_running_out_of_memory_is_a_row(tmp_path):
    record = Record(suite="speed", case="warm call", metric="time of a call", value=None, note="out of memory",
                    kind="absolute", backend="torchax", mode="jit", **GROUP)  # fmt: skip
    text, summary = page(tmp_path, [*[r for r in speed_records() if r.backend != "torchax"], record])
    assert not summary.failed
    assert any("torchax jit" in line and "out of memory" in line for line in text.splitlines())


def test_a_page_of_a_busy_machine_says_so_at_once(tmp_path):
    text, _ = page(tmp_path, [busy(0.02).model_copy(update={"backend": "flax", "mode": "jit", **GROUP})])
    assert "**Other work had the cores**: 1 value" in "\n".join(text.splitlines()[:6])
    assert "0.02 (disturbed)" in text


def test_an_interrupted_run_has_a_page_of_what_was_measured(tmp_path):
    text, _ = page(tmp_path, speed_records()[:3], complete=False, exit_status=2)
    assert "**Interrupted**: here is what was measured by then, 3 values." in text


def test_only_the_pages_of_the_chosen_suites_are_written(tmp_path):
    write_run(tmp_path, [Record(suite="parity", case="c", metric="m", value=9.0, limit=1.0)], RUN)
    write_run(tmp_path, speed_records(), SPEED)
    summary = write_report(tmp_path, tmp_path / "baselines", RUN.platform, ("speed",))
    assert not summary.failed
    assert not (tmp_path / RUN.platform / "parity.md").exists()
    assert "parity" in (tmp_path / RUN.platform / "index.md").read_text()


# History


def saved(date: str, value: float, **extra: Any) -> dict[str, Any]:
    info = {"suite": "twinvae speed", "case": "warm call", "group": "tiny decode 16x32x48 float32",
            "contender": "flax jit", "values": {"time over PyTorch": value}}  # fmt: skip
    return {"datetime": date, "commit_info": {"id": "0123456789abcdef"}, "benchmarks": [{"extra_info": info | extra}]}


def write(folder: Path, name: str, content: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))


def test_saved_runs_come_in_the_order_of_their_dates(tmp_path):
    write(tmp_path / "Linux", "0002.json", saved("2026-02-02T00:00:00", 0.7))
    write(tmp_path / "Linux", "0001.json", saved("2026-03-03T00:00:00", 0.8))
    runs = read_history(str(tmp_path)).runs
    assert [list(run.values.values()) for run in runs] == [[0.7], [0.8]]
    assert runs[0].commit == "0123456789ab"


@pytest.mark.parametrize(
    "content",
    ["", "no json", "[]", "null", "{}", '{"benchmarks": 3}', {"benchmarks": [{"name": "x"}], "datetime": "d"},
     {"benchmarks": [{"extra_info": None}], "datetime": "d"}, {"benchmarks": [], "datetime": "d"},
     saved("2026-01-01", 1.0, suite="another's"), saved("2026-01-01", 1.0, values={"time over PyTorch": "fast"}),
     saved("2026-01-01", 1.0, values=None)],
)  # fmt: skip
def test_a_file_that_is_not_ours_is_left_out_and_said_to_be(content, tmp_path):
    write(tmp_path, "0001.json", saved("2026-02-02T00:00:00", 0.7))
    write(tmp_path, "0002.json", content)
    history = read_history(str(tmp_path))
    assert len(history.runs) == 1
    assert len(history.notes) == 1
    assert "0002.json is left out" in history.notes[0]


def test_without_saved_runs_there_is_no_history(tmp_path):
    assert read_history("").runs == read_history(str(tmp_path / "none")).runs == ()


def test_this_run_stands_at_the_end_once(tmp_path):
    write(tmp_path, "0001.json", saved("2026-02-02T00:00:00", 0.7))
    data = write_run(tmp_path / "r", [r for r in speed_records() if r.key[2:5] == ("flax", "decode", "jit")], SPEED)
    runs = with_this_run(read_history(str(tmp_path)), data)
    assert [list(run.values.values()) for run in runs] == [[0.7], [0.6]]
    write(tmp_path, "0002.json", saved("2026-03-04T00:00:00", 0.6))
    assert len(with_this_run(read_history(str(tmp_path)), data)) == 2


def test_a_first_call_is_no_part_of_the_history(tmp_path):
    where = GROUP | {"backend": "flax", "mode": "jit"}
    data = write_run(tmp_path, [ratio(0.6, **where), ratio(3.0, **where, case="first call")], SPEED)
    (run,) = with_this_run(read_history(""), data)
    assert list(run.values.values()) == [0.6]


def test_history_is_drawn_and_what_is_left_out_is_on_the_page(tmp_path):
    write(tmp_path / "saved", "0001.json", saved("2026-02-02T00:00:00", 0.7))
    write(tmp_path / "saved", "0002.json", "{}")
    text, _ = page(tmp_path, speed_records(), SPEED.model_copy(update={"storage": str(tmp_path / "saved")}))
    assert "speed-history.svg" in text
    assert "0002.json is left out" in text
    row = next(line for line in text.splitlines() if line.startswith("| 2026-02-02T00:00 |"))
    assert "| 0.7 (1)" in row
