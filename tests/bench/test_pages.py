"""Pages: what a reader finds first, and that the same records give the same bytes."""

from __future__ import annotations

import io
import re
from functools import partial
from itertools import combinations_with_replacement
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from tests.bench.synthetic import RUN, broken, frame_exhibits, parity_records, write_run
from twinvae.bench.baselines import Entry, baseline_path, updated, write_baseline
from twinvae.bench.cli import main
from twinvae.bench.pages import (
    Elsewhere,
    Judged,
    finding_lines,
    grade_table,
    headline,
    index_page,
    shortened,
    table,
    worst_table,
)
from twinvae.bench.records import Failure, Record
from twinvae.bench.report import write_report
from twinvae.bench.verdicts import STATUSES, Verdict, judge

NAN = float("nan")
BORN = "decoder.up_blocks.0.resnets.1"
FIRST_SCREEN = 25  # lines


def make_report(folder: Path, records=None, run=RUN, accepted: bool = True, **options):
    """Accept the usual records, write a run of the given ones, and write its pages."""
    reports, baselines = folder / "reports", folder / "baselines"
    if accepted:
        usual = updated(None, write_run(reports, parity_records()))
        write_baseline(baseline_path(baselines, "cpu", "parity"), usual)
    write_run(reports, parity_records() if records is None else records, run, **options)
    return write_report(reports, baselines, "cpu")


@pytest.fixture
def drawn_report(tmp_path):
    return partial(make_report, tmp_path)


@pytest.fixture
def report(drawn_report, monkeypatch):
    """Reports without their figures, which take most of the time."""
    monkeypatch.setattr("twinvae.bench.report.draw", lambda data, verdicts: [])
    return drawn_report


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return make_report(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    return make_report(tmp_path_factory.mktemp("bad"), broken(parity_records(), BORN), extra=frame_exhibits)


def page(summary, name: str = "parity") -> str:
    return (summary.index.parent / f"{name}.md").read_text()


def first_screen(text: str) -> str:
    return "\n".join(text.splitlines()[:FIRST_SCREEN])


def test_a_good_run_says_so_first(good):
    assert not good.failed
    assert "# cpu: nothing got worse" in page(good, "index")
    assert f"Nothing got worse: {len(parity_records())} values checked" in first_screen(page(good))
    assert "## Findings" not in page(good)


def test_a_bad_run_names_what_by_how_much_and_where_in_the_first_screen(bad):
    summary = bad
    assert summary.failed
    for name in ("index", "parity"):
        screen = first_screen(page(summary, name))
        assert "wrong" in screen
        assert f"1. **The first block that departs in flax decode is {BORN}.** max_abs" in screen
        assert "in eager, jit; float64, float32, bfloat16" in screen
        assert "→ 0.75" in screen
    assert "7 blocks after it are off as well" in page(summary)


def judged_as(*statuses: str, failures: int = 0) -> Judged:
    verdicts = [
        Verdict(status, Record(suite="s", case=str(i), metric="m", value=1).key) for i, status in enumerate(statuses)
    ]
    data = SimpleNamespace(failures=[None] * failures, interrupted=False)
    return Judged(data, None, verdicts)


@pytest.mark.parametrize(
    ("judged", "words", "outcome"),
    [
        (judged_as("wrong", "wrong", "wrong", "regressed", "regressed", "improved", "pass"),
         "3 of 7 values are wrong; 2 got worse; 1 improved.", "wrong"),
        (judged_as("wrong"), "1 of 1 value is wrong.", "wrong"),
        (judged_as("regressed", "pass", failures=2), "1 of 2 values got worse; 2 tests failed.", "got worse"),
        (judged_as("missing", "pass"), "1 value missing.", "values missing"),
        (judged_as("pass", failures=1), "1 test failed.", "tests failed"),
        (judged_as("improved", "pass", "pass"), "Nothing got worse: 3 values checked (1 improved, 2 pass).",
         "nothing got worse"),
        (judged_as(), "Nothing was measured.", "nothing measured"),
    ],
)  # fmt: skip
def test_the_headline_tells_what_is_wrong_from_what_got_worse_and_what_improved(judged, words, outcome):
    assert (headline(judged), judged.outcome) == (words, outcome)


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_an_index_tells_of_another_runs_page_what_that_run_came_to(failures):
    """Of every verdict alone, of every two, and of none."""
    for statuses in [(), *combinations_with_replacement(STATUSES, 1), *combinations_with_replacement(STATUSES, 2)]:
        judged = judged_as(*statuses, failures=failures)
        title = index_page("cpu", [], {"speed": Elsewhere(headline(judged), "0123456")}).splitlines()[0]
        assert ("earlier speed failed" in title) == judged.failed, headline(judged)


def test_of_a_models_blocks_only_the_first_that_departs_is_a_finding_and_all_are_marked(bad):
    text = page(bad)
    findings, tables = text.split("## Findings")[1].split("## Every value")
    assert re.findall(r"^### \d+\. (.+)$", findings, re.MULTILINE)[0] == BORN
    assert "norm_out is the first" not in findings
    assert re.search(r"decoder\.norm_out .*0\.75 ✗", tables)


def test_a_whole_model_value_that_fails_points_at_the_layer_where_its_error_is_born(bad):
    text = page(bad)
    rows = [line for line in text.splitlines() if line.startswith("| whole VAE decode") and "one block" not in line]
    failing = [row for row in rows if "past its limit" in row]
    assert failing
    assert all(re.search(rf"`{re.escape(BORN)}` +\|$", row) for row in failing)


def test_a_layer_that_fails_alone_is_named_with_its_command(report):
    records = parity_records()
    records[0] = records[0].model_copy(update={"value": 0.3})
    run = RUN.model_copy(update={"options": ("--preset", "tiny")})
    text = page(report(records, run))
    assert "The layer alone departs: causal conv, flax." in first_screen(text)
    assert f"pytest '{records[0].test}' --preset tiny" in text


def test_a_failed_test_fails_the_page_with_its_name_and_command(report):
    summary = report(extra=lambda file: file.failure("suites/x.py::test_y[a]", "boom | bang", "pytest 'suites/x.py'"))
    assert summary.failed
    assert "1 test failed" in first_screen(page(summary))
    assert "| `suites/x.py::test_y[a]` | boom \\| bang |" in page(summary)
    assert "\npytest 'suites/x.py'\n" in page(summary)


def test_a_value_that_is_missing_is_listed(report):
    summary = report(parity_records()[1:])
    assert "1 value missing" in first_screen(page(summary))
    assert re.search(r"causal conv, first batch .* → missing", page(summary))


def test_an_interrupted_run_says_so_at_the_top_and_shows_what_it_had(report):
    summary = report(parity_records()[:7], complete=None)
    assert not summary.failed
    for name in ("index", "parity"):
        assert "interrupted" in first_screen(page(summary, name)).lower()
    assert "**Interrupted**: here is what was measured by then, 7 values" in first_screen(page(summary))
    assert page(summary, "index").startswith("# cpu: parity interrupted\n")


@pytest.mark.parametrize(
    ("changes", "options", "note"),
    [
        ({"nan_input": True}, {}, "The clip holds NaN"),
        ({"clip": "panda.mp4"}, {}, "Held against limits alone: the baseline is of clip synthetic"),
        ({"versions": RUN.versions | {"jax": "0.11.0"}}, {}, "jax 0.10.2 -> 0.11.0"),
        ({}, {"complete": False}, "Only a part of the suite was run"),
        ({}, {"accepted": False}, "no baseline yet"),
    ],
)
def test_what_a_reader_must_know_stands_in_the_first_screen(report, changes, options, note):
    assert note in first_screen(page(report(run=RUN.model_copy(update=changes), **options)))


def test_every_value_stands_on_the_page_with_grades_and_provenance(good):
    text = page(good)
    table_of_values = text.split("## Every value")[1]
    for title in ("max_abs, float64 (1 run each)", "mae, bfloat16", "max_abs, float32, block after block"):
        assert f"### {title}" in table_of_values
    body = table_of_values.split("### max_abs, float32 (")[1].split("###")[0]
    assert len(body.splitlines()) == len({r.case for r in parity_records()}) + 1 + 5
    assert re.search(r"\| whole VAE encode tiny 1x9x96x160x3 +\| exact ", text)
    for fact in (RUN.date, RUN.commit, "torch 2.13.0", RUN.device, "seeded", "synthetic, no NaN"):
        assert fact in text.split("## Provenance")[1]


def test_tables_of_blocks_come_last_and_dtypes_from_precise_to_coarse(good):
    titles = re.findall("^### (.+)$", page(good).split("## Every value")[1], re.MULTILINE)
    blocks = ["block after block" in title for title in titles]
    assert blocks == [False] * 6 + [True] * 3
    dtypes = [re.search(", (float64|float32|bfloat16)", title)[1] for title in titles]
    assert dtypes == ["float64", "float32", "bfloat16"] * 3


def test_the_closest_to_their_bar_all_pass_and_come_in_order(report):
    values = {"far": 1e-9, "near": 9e-7, "past": 2e-6}
    records = [
        Record(suite="parity", case=name, metric="max_abs", value=value, limit=1e-6) for name, value in values.items()
    ]
    closest = page(report(records, accepted=False)).split("## Closest to their bar")[1].split("\n## ")[0]
    assert re.findall(r"^\| (\w+) .* (\d+) %", closest, re.MULTILINE) == [("near", "90"), ("far", "0")]


def test_what_is_as_it_was_is_not_close_to_its_bar_unless_it_may_be_past_it(tmp_path):
    shared = {"suite": "parity", "metric": "x", "tolerance": 1.0}
    count = Record(case="count", value=7, **shared)
    noisy = Record(case="noisy", value=1.1, interval=(0.8, 1.4), runs=3, kind="ratio", limit=1.0, **shared)
    verdicts = [judge(one, Entry(case=one.case, metric="x", value=one.value, run=0)) for one in (count, noisy)]
    shown = worst_table(Judged(write_run(tmp_path, [count, noisy]), None, verdicts))
    assert re.findall(r"^\| (\w+) .* (\d+) %", shown, re.MULTILINE) == [("noisy", "110")]


def test_a_case_has_the_grade_of_the_worse_mode(report):
    errors = {"eager": 5e-2, "jit": 1e-9}
    records = [
        Record(suite="parity", case="norm", backend="flax", mode=mode, dtype="float32", metric="mae", value=error)
        for mode, error in errors.items()
    ]
    text = page(report(records, accepted=False))
    assert re.search(r"^\| norm +\| drifting +\|$", text, re.MULTILINE)
    assert "1 exact, 1 drifting." in text


def test_more_failures_than_fit_are_counted(report):
    text = page(report([r.model_copy(update={"value": 9.0}) for r in parity_records()]))
    total = len(re.findall(r" ✗ +(?=\|)", text.split("## Every value")[1]))
    assert total == len(parity_records())
    findings = text.split("## Findings")[1].split("\n## ")[0]
    assert len(findings.split("\n### ")) - 1 == len(set(re.findall(r"(?m)^### (.+)$", findings)))
    more = sum(int(count.replace(",", "")) for count in re.findall(r"And ([\d,]+) values? more", findings))
    shown = len(re.findall(r"^\| .*past its limit|^\| .*baseline allows", findings, re.MULTILINE))
    assert shown + more == total


def test_the_same_records_give_the_same_bytes(drawn_report, bad):
    def files(summary):
        folder: Path = summary.index.parent
        return {path.name: path.read_bytes() for path in (*folder.glob("*.md"), *folder.glob("figures/*"))}

    again = drawn_report(broken(parity_records(), BORN), extra=frame_exhibits)
    assert len(files(bad)) == 4
    assert files(again) == files(bad)


def test_figures_are_drawn_linked_and_removed_when_there_is_nothing_to_draw(bad, drawn_report):
    figures = bad.index.parent / "figures"
    linked = set(re.findall(r"\(figures/(.+?)\)", page(bad)))
    assert linked == {path.name for path in figures.iterdir()} == {"parity-error-growth-tiny.svg", "parity-frames.png"}
    assert all(path.stat().st_size < 300_000 for path in figures.iterdir())
    ElementTree.parse(figures / "parity-error-growth-tiny.svg")
    figures = drawn_report(extra=frame_exhibits).index.parent / "figures"
    assert len(list(figures.iterdir())) == 2
    drawn_report(parity_records()[:4])
    assert not list(figures.iterdir())


def test_figures_survive_values_that_are_not_finite(drawn_report):
    odd = {0: float("nan"), 1: float("inf"), 2: None, 3: 0.0}
    records = [r.model_copy(update={"value": odd[r.order]}) if r.order in odd else r for r in parity_records()]

    def exhibit(file):
        frame = np.full((8, 8, 3), np.nan)
        file.exhibit("frame", {"original": frame, "reference": frame, "output": frame}, backend="flax")

    summary = drawn_report(records, extra=exhibit)
    assert len(list((summary.index.parent / "figures").iterdir())) == 2
    assert "encoder.conv_in" in first_screen(page(summary))


def test_a_suite_without_a_template_of_its_own_gets_the_common_page(report):
    times = [Record(suite="speed", case="decode", backend=b, mode="jit", metric="seconds", unit="s", kind="absolute",
                    value=1.5, interval=(1.4, 1.6), runs=9) for b in ("flax", "torchax")]  # fmt: skip
    summary = report(times, RUN.model_copy(update={"suite": "speed"}))
    text = page(summary, "speed")
    assert "### seconds [s] (9 runs each)" in text
    assert "| decode | 1.5 (1.4 to 1.6) | 1.5 (1.4 to 1.6) |" in text
    assert "[speed](speed.md)" in page(summary, "index")
    assert "[parity](parity.md)" in page(summary, "index")


def test_a_page_written_before_stays_in_the_index(report):
    folder = report().index.parent
    (folder / "tiling.md").write_text("# tiling\n\nMeasured on a commit day, commit 0123456+changes; versions")
    (folder / "faults.md").write_text("# faults")
    (folder / "speed.md").write_text("# speed\n\n**2 of 3 values are wrong.**\n\ncommit 0123456; versions")
    index = page(report(), "index")
    assert "- [tiling](tiling.md): as of another run, commit 0123456+changes.\n" in index
    assert "- [faults](faults.md): as of another run.\n" in index
    assert "- [speed](speed.md): **2 of 3 values are wrong.** As of another run, commit 0123456.\n" in index
    assert "nothing got worse; earlier speed failed" in index.splitlines()[0]


def test_the_terminal_table_counts_per_backend_and_dtype(bad):
    console = Console(width=160, file=io.StringIO())
    console.print(bad.table)
    shown = console.file.getvalue()
    row = next(line for line in shown.splitlines() if "flax" in line and "float64" in line)
    assert re.search(r"│ +18 │ +2 │ +128 │ whole VAE decode tiny 1x9x96x160x3 mae 0.75, the baseline allows", row)


def test_the_terminal_table_names_the_error_closest_to_its_bar_before_a_likeness(report):
    likeness = Record(suite="parity", case="whole", metric="psnr", value=46.0, better="higher", limit=45.0)
    error = Record(suite="parity", case="norm", metric="max_abs", value=5e-7, limit=1e-6)
    console = Console(width=160, file=io.StringIO())
    console.print(report([likeness, error], accepted=False).table)
    assert "norm max_abs 5e-07, limit 1e-06" in console.file.getvalue()


def test_a_report_folder_that_cannot_be_written_is_named(report, tmp_path, capsys):
    folder = report().index.parent
    (folder / "parity.md").unlink()
    (folder / "parity.md").mkdir()
    folders = ["--report-dir", str(tmp_path / "reports"), "--baseline-dir", str(tmp_path / "baselines")]
    assert main(["report", *folders]) == 2
    assert re.search(r"cannot write .*parity.md: .*--report-dir", capsys.readouterr().err)
    assert not list(folder.glob("**/*.part"))


def test_a_baseline_that_is_not_valid_stops_the_report_before_anything_is_written(report, tmp_path):
    before = page(report())
    (tmp_path / "baselines" / "cpu" / "parity.json").write_text("{")
    with pytest.raises(ValueError, match=r"parity.json is not a valid baseline"):
        report(broken(parity_records(), BORN), accepted=False)
    assert page(report(accepted=True)) == before


def test_a_text_that_is_too_long_is_cut():
    assert shortened("abcdef", 6) == "abcdef"
    assert shortened("abcdefg", 6) == "abcde…"


def test_a_table_lines_up_escapes_bars_and_drops_empty_columns():
    lines = table(["a", "b", "c"], [["x|y", "", "1"], ["", "", "long"]]).splitlines()
    assert lines == ["| a    | c    |", "|------|------|", "| x\\|y | 1    |", "|      | long |"]


def test_a_test_that_fails_without_a_number_is_named_at_the_top():
    failure = Failure(test="suites/parity/test_x.py::test_y", message="shapes differ", rerun="pytest x")
    data = SimpleNamespace(failures=[failure], run=RUN)
    assert finding_lines(Judged(data, None, [])) == ["**test_y: shapes differ** Explains 1 value or test that fails."]


def test_a_fault_after_the_last_block_is_placed_there(report):
    clipped = [
        record.model_copy(update={"value": 0.5})
        if (record.backend, record.operation, record.layer) == ("flax", "decode", None)
        else record
        for record in parity_records()
    ]
    text = page(report(clipped))
    assert "In flax decode every block up to the last, decoder.conv_out, agrees" in text
    assert "torchax decode every block" not in text
    assert "every block" not in page(report(broken(parity_records(), "decoder.conv_in")))


@pytest.mark.parametrize("worse", [NAN, None, 0.5], ids=str)
@pytest.mark.parametrize("order", [("eager", "jit"), ("jit", "eager")], ids="-".join)
def test_a_cases_grade_is_that_of_its_worst_mode_whichever_comes_first(worse, order):
    errors = {order[0]: worse, order[1]: 1e-16}
    records = [Record(suite="parity", case="a", backend="flax", dtype="float32", metric="mae", mode=mode, value=error)
               for mode, error in errors.items()]  # fmt: skip
    judged = judged_as()._replace(verdicts=[judge(record) for record in records])
    assert "broken" in grade_table(judged)
    assert "exact" not in grade_table(judged)
