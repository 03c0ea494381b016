"""The verdict as JSON and as a badge."""

from __future__ import annotations

import json

import pytest

from tests.bench.synthetic import RUN, broken, parity_records, write_run
from twinvae.bench.baselines import Known, updated, write_baseline
from twinvae.bench.machine_readable import BADGE, VERDICT, badge, write_machine_readable
from twinvae.bench.records import RunFile
from twinvae.bench.report import judge_suites
from twinvae.bench.verdicts import judge_run

RECORDS = parity_records()


def fails(file: RunFile) -> None:
    file.failure("suites/parity/test_x.py::test_y", "PortRaised: decode raised", "pytest x")


RUNS = {
    "right": (RECORDS, {}, (f"{len(RECORDS)} values agree", "brightgreen"), False),
    "a part": (RECORDS, {"complete": False}, (f"{len(RECORDS)} values agree, in part", "yellowgreen"), False),
    "wrong": (broken(RECORDS, "decoder.conv_in"), {}, (f" of {len(RECORDS)} values fail", "red"), True),
    "a test fails": (RECORDS, {"extra": fails}, ("1 test fails", "red"), True),
    "nothing": ([], {}, ("nothing measured", "lightgrey"), False),
}


@pytest.mark.parametrize("case", RUNS)
def test_the_badge_and_the_json_say_what_the_run_came_to(case, tmp_path):
    records, how, (message, colour), failed = RUNS[case]
    write_run(tmp_path, records, **how)
    suites = judge_suites(tmp_path, tmp_path / "none", "cpu")
    write_machine_readable(suites, tmp_path)
    written = json.loads((tmp_path / BADGE).read_text())
    assert written == badge(suites)
    assert written["schemaVersion"] == 1
    assert written["message"].endswith(message)
    assert written["color"] == colour
    verdict = json.loads((tmp_path / VERDICT).read_text())
    assert (verdict["failed"], verdict["suites"]["parity"]["failed"]) == (failed, failed)
    assert sum(verdict["suites"]["parity"]["values"].values()) == len(records)
    if case == "a test fails":
        assert verdict["suites"]["parity"]["failures"][0]["message"] == "PortRaised: decode raised"


def test_a_badge_counts_what_is_known_to_fail_as_no_agreement(tmp_path):
    data = write_run(tmp_path, broken(RECORDS, "decoder.conv_in"))
    past = {verdict.key for verdict in judge_run(data, None) if verdict.failing}
    baseline = updated(None, data, past, Known(reason="pooling is reshaped", owner="kim"))
    write_baseline(tmp_path / "mine" / "cpu" / "parity.json", baseline)
    shown = badge(judge_suites(tmp_path, tmp_path / "mine", "cpu"))
    accepted = sum(entry.known is not None for entry in baseline.entries)
    assert 0 < accepted < len(RECORDS)
    words = f"{len(RECORDS) - accepted} values agree, {accepted} known to fail"
    assert (shown["message"], shown["color"]) == (words, "yellowgreen")


@pytest.mark.parametrize("partial", ["parity", "tiling"])
def test_a_badge_of_two_suites_is_green_where_both_are_whole(partial, tmp_path):
    for suite in ("parity", "tiling"):
        records = [record.model_copy(update={"suite": suite}) for record in RECORDS[:2]]
        write_run(tmp_path, records, RUN.model_copy(update={"suite": suite}), complete=suite != partial)
    shown = badge(judge_suites(tmp_path, tmp_path / "none", "cpu"))
    assert (shown["message"], shown["color"]) == ("4 values agree, in part", "yellowgreen")
