"""The memory page: ceilings with their margin, what was recalled, prediction beside measurement, and the frontier."""

from __future__ import annotations

import numpy as np
import pytest

from suites.memory.bars import ARITHMETIC, BYTES, FLOPS, MEMORY_SHARE, OF_CARDS, TEMPORARIES, TIME_SHARE, TRAFFIC
from suites.memory.bars import PEAK as PEAK_
from suites.memory.page import frontier_table
from tests.bench.synthetic import RUN, write_run
from twinvae.bench.aot import hlo
from twinvae.bench.records import Record, RunFile
from twinvae.bench.report import write_report
from twinvae.bench.verdicts import Verdict, judge

AOT = RUN.model_copy(update={"suite": "memory", "platform": "tpu-v6e-aot"})
CARD = AOT.model_copy(update={"platform": "gpu-l4-aot"})
CPU = RUN.model_copy(update={"suite": "memory"})
COMMON = {"suite": "memory", "backend": "flax", "operation": "decode", "mode": "jit", "preset": "cogvideox-2b"}
PEAK = COMMON | {"dtype": "bfloat16", "metric": "peak", "unit": "GB", "tolerance": 1.02}


def page(tmp_path, run, records, extra=lambda file: None) -> tuple[bool, str]:
    write_run(tmp_path / "out", records, run, extra=extra)
    summary = write_report(tmp_path / "out", tmp_path / "baselines", run.platform)
    return summary.failed, (tmp_path / "out" / run.platform / "memory.md").read_text()


def test_a_ceiling_is_shown_with_its_margin_and_where_the_number_comes_from(tmp_path):
    records = [Record(**PEAK, case="81 frames, one program", shape="81x768x1360", value=22.6, limit=23.0,
                      note="recalled (2026-11-21, 143 s)")]  # fmt: skip
    failed, text = page(tmp_path, AOT, records)
    assert not failed
    row = next(line for line in text.splitlines() if "recalled (" in line)
    assert [cell.strip() for cell in row.split("|")][6:9] == ["22.60", "23", "+2 %"]
    assert "Nothing got worse" in text.splitlines()[2]
    assert "memory-ceilings.svg" in text


def test_a_peak_over_its_ceiling_is_the_verdict(tmp_path):
    records = [Record(**PEAK, case="one batch of 2 latents, one program", shape="8x768x1360", value=12.5, limit=12.0)]
    failed, text = page(tmp_path, AOT, records)
    assert failed
    assert text.splitlines()[0].endswith(": wrong")
    assert "1 of 1 value is wrong." in text.splitlines()[2]
    assert "12.50 ✗" in text


def test_what_needs_compiling_is_said_with_the_command_and_is_no_failure(tmp_path):
    records = [Record(**PEAK, case="81 frames, streamed", shape="81x768x1360", value=None, limit=23.0,
                      pending="nox -s memory -- --aot v6e", note="was 15.2 GB before it changed")]  # fmt: skip
    failed, text = page(tmp_path, AOT, records)
    assert not failed
    assert "## Needs compiling" in text
    assert "`nox -s memory -- --aot v6e` (was 15.2 GB before it changed)" in text
    assert "Other work had the cores" not in text


@pytest.mark.parametrize(("off", "failing"), [(0.06, False), (0.4, True)])
def test_prediction_stands_beside_measurement_and_pytorch(off, failing, tmp_path):
    shared = COMMON | {"dtype": "float32", "case": "whole clip", "shape": "9x96x160", "preset": "tiny"}
    measured = {"metric": "measured peak above the idle process", "unit": "GB", "kind": "absolute", "tolerance": 1.1}
    records = [
        Record(**shared, **measured, value=0.2),
        Record(**shared, metric="compiler's peak above the idle process", value=0.188, unit="GB", tolerance=np.inf),
        Record(**shared, metric="prediction off the measurement by", value=off, kind="absolute", limit=0.25,
               tolerance=np.inf),
        Record(**shared | {"backend": "torch", "mode": "eager"}, **measured, value=0.4),
    ]  # fmt: skip
    failed, text = page(tmp_path, CPU, records)
    assert failed is failing
    row = next(line for line in text.splitlines() if "| flax" in line and "188" in line)
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[6:10] == ["188", "200", "0.94 ✗" if failing else "0.94", "0.50"]
    assert "memory-prediction.svg" in text


def test_the_frontier_is_a_table_and_a_picture_with_what_was_published(tmp_path, monkeypatch):
    records = [
        Record(**COMMON, dtype="bfloat16", case=f"{budget} GB ({chip}), streamed", metric="most frames at 768x1360",
               value=frames, unit="frames", better="higher", note=f"{frames}; found 2026-11-21")
        for budget, chip, frames in ((16, "v5e", 33), (32, "v6e", 249))
    ]  # fmt: skip

    def curves(file: RunFile) -> None:
        for budget, chip in ((16, "v5e"), (32, "v6e")):
            arrays = {"x": np.array([9, 81]), "peak": np.array([9e9, 14e9]), "budget": np.array(budget * 2**30)}
            file.exhibit(f"frontier {budget} most frames at 768x1360 streamed", arrays, backend="flax",
                         dtype="bfloat16", caption=f"most frames at 768x1360|streamed|{budget}|{chip}")  # fmt: skip

    _, text = page(tmp_path, AOT, records, curves)
    assert "| 32 GB (v6e), streamed | 249" in text
    assert "memory-frontier.svg" in text
    drawn = tmp_path / "out" / "tpu-v6e-aot" / "figures" / "memory-frontier.svg"
    with_crosses = drawn.read_text()
    page(tmp_path, AOT, records, curves)
    assert drawn.read_text() == with_crosses
    monkeypatch.setattr("suites.memory.figure.PUBLISHED", ())
    page(tmp_path, AOT, records, curves)
    assert drawn.read_text() != with_crosses


def test_chips_whose_devices_have_about_as_much_memory_share_a_line(tmp_path):
    def curves(file: RunFile) -> None:
        for budget, chip, usable in ((32, "v6e", 31.25), (95, "v5p", 95.74), (192, "tpu7x", 94.75)):
            arrays = {"x": np.array([9, 81]), "peak": np.array([9e9, 14e9]), "budget": np.array(usable * 2**30)}
            file.exhibit(f"frontier {budget} most frames at 480x720 tiled", arrays, backend="flax", dtype="bfloat16",
                         caption=f"most frames at 480x720|tiled|{budget}|{chip}")  # fmt: skip

    page(tmp_path, AOT, [Record(**PEAK, case="81 frames, streamed", value=15.2)], curves)
    drawn = (tmp_path / "out" / "tpu-v6e-aot" / "figures" / "memory-frontier.svg").read_text()
    assert "95 GB (v5p), 192 GB (tpu7x)" in drawn
    assert "32 GB (v6e)," not in drawn


def card_records(**values) -> list[Record]:
    """Of a program of a card; those of one that needs compiling where there are no values."""
    named = dict.fromkeys(OF_CARDS, None) | values
    told = {} if values else {"pending": "nox -s memory -- --aot l4", "note": "never compiled"}
    shared = COMMON | {"dtype": "bfloat16", "case": "9 frames, whole", "shape": "9x480x720"} | told
    return [Record(**shared, metric=name, value=value, **OF_CARDS[name].fields) for name, value in named.items()]


def test_a_program_of_a_card_is_shown_with_its_roofline_and_what_the_compiler_does_not_know(tmp_path):
    counts = dict.fromkeys(hlo.COUNTS, 0.0) | {hlo.CONVOLUTIONS: 117.0, hlo.FUSIONS: 1607.0}
    records = card_records(**counts, **{PEAK_: 7.493, TEMPORARIES: 4.42, FLOPS: 57.8, BYTES: 113.0, ARITHMETIC: 58.4,
                                        TRAFFIC: 377.0, TIME_SHARE: 0.471, MEMORY_SHARE: 0.988})  # fmt: skip
    failed, text = page(tmp_path, CARD, records)
    assert not failed
    needs, least = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in text.splitlines()
        if line.startswith("| 9 frames, whole |")
    )
    assert needs[5:] == ["7.49", "4.42", "0.99", "117", "0", "0", "0", "0", "0", "1607", "0"]
    assert least[5:] == ["57.8", "113", "58.4", "377", "bytes", "0.47"]
    assert "The card's description: from published figures; not read on an L4 yet." in text
    assert "**What the compiler does not know.** Which of cuDNN's algorithms" in text
    assert "memory-rooflines.svg" in text
    assert "## Ceilings" not in text


def test_a_convolution_in_float32_is_the_verdict_of_a_cards_page(tmp_path):
    failed, text = page(tmp_path, CARD, card_records(**dict.fromkeys(OF_CARDS, 1.0)))
    assert failed
    assert text.splitlines()[0].endswith(": wrong")
    assert "3 of 16 values are wrong" in text.splitlines()[2]  # the first of each of the three that may not be


def test_a_program_of_a_card_that_needs_compiling_is_no_failure(tmp_path):
    failed, text = page(tmp_path, CARD, card_records())
    assert not failed
    assert "`nox -s memory -- --aot l4` (never compiled)" in text
    assert "memory-rooflines.svg" not in text


def test_the_frontier_of_cards_has_their_marks_and_nothing_that_was_published_of_tpus(tmp_path):
    def curves(file: RunFile) -> None:
        for budget, chip in ((24, "l4"), (80, "h100")):
            arrays = {"x": np.array([9, 81]), "peak": np.array([9e9, 14e9]), "budget": np.array(budget * 2**30)}
            file.exhibit(f"frontier {budget} most frames at 768x1360 streamed", arrays, backend="flax",
                         dtype="bfloat16", caption=f"most frames at 768x1360|streamed|{budget}|{chip}")  # fmt: skip

    goal = Record(**COMMON, dtype="bfloat16", case="24 GB (l4), streamed", metric="most frames at 768x1360", value=33,
                  unit="frames", better="higher", note="33, compiled; found 2026-11-27")  # fmt: skip
    _, text = page(tmp_path, CARD, [goal], curves)
    assert "| 24 GB (l4), streamed | 33, compiled" in text
    assert "Ways that are not here were not asked for." in text
    drawn = (tmp_path / "out" / "gpu-l4-aot" / "figures" / "memory-frontier.svg").read_text()
    assert "80 GB (h100)" in drawn
    assert "published" not in drawn


def test_the_frontier_holds_goals_alone():
    goal = Record(**COMMON, dtype="bfloat16", case="16 GB (v5e), tiled", metric="largest frames of 49", value=1024,
                  better="higher")  # fmt: skip
    peak = Record(**PEAK, case="81 frames, streamed", value=15.2)
    gone = Verdict("missing", peak.key, "the baseline has it, this run has not", before=15.2)
    headings, rows = frontier_table([judge(goal), judge(peak), gone])
    assert headings == ["memory, form", "largest frames of 49"]
    assert [row[0] for row in rows] == ["16 GB (v5e), tiled"]
