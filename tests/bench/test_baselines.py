"""Baselines: read with checks, written line by line, changed only after the difference was shown."""

from __future__ import annotations

import math
import sys

import pytest

from tests.bench.synthetic import RUN, broken, parity_records, write_run
from twinvae.bench.baselines import Known, difference, read_baseline, stored, updated, write_baseline
from twinvae.bench.cli import main
from twinvae.bench.records import Record, Selection
from twinvae.bench.verdicts import judge_run


@pytest.fixture
def folders(tmp_path):
    return ["--report-dir", str(tmp_path / "reports"), "--baseline-dir", str(tmp_path / "baselines")]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "baselines" / "cpu" / "parity.json"


def record(case: str, value: float | None, **fields) -> Record:
    return Record(suite="parity", case=case, value=value, **{"metric": "max_abs"} | fields)


def test_a_baseline_comes_back_as_it_was_written(tmp_path, path):
    odd = [record("nan", math.nan), record("none", None), record("inf", math.inf), record("big", 1.25e12)]
    baseline = updated(None, write_run(tmp_path, [*parity_records(), *odd]))
    write_baseline(path, baseline)
    assert difference(baseline, read_baseline(path)) == []
    assert read_baseline(path).runs[0].versions == RUN.versions


def test_an_entry_is_one_line_and_the_order_of_measuring_does_not_matter(tmp_path, path):
    write_baseline(path, updated(None, write_run(tmp_path, parity_records())))
    first = path.read_text()
    write_baseline(path, updated(None, write_run(tmp_path, parity_records()[::-1])))
    assert path.read_text() == first
    changed = parity_records()
    changed[0] = changed[0].model_copy(update={"value": 0.5})
    write_baseline(path, updated(None, write_run(tmp_path, changed)))
    differing = [line for line in path.read_text().splitlines() if line not in first.splitlines()]
    assert len(differing) == 1
    assert '"value":0.5' in differing[0]
    assert len(first) / len(changed) < 400  # bytes per entry: 2000 entries stay under 800 kB


def test_errors_keep_three_digits_and_everything_else_is_kept_whole():
    assert stored(record("error", 1.23456e-7)) == 1.23e-7
    assert stored(record("bytes", 123456789)) == 123456789
    assert stored(record("psnr", 0.123456, better="higher")) == 0.123456
    assert stored(record("frames", 0.123456, better="equal")) == 0.123456
    assert stored(record("ratio", 0.123456, kind="ratio")) == 0.123456


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text[:-20], "not JSON: .*line"),
        (lambda text: text.replace('"format": 1', '"format": 7'), "format: .*found 7"),
        (lambda text: text.replace('"metric":', '"metrik":', 1), "entries.0.metric: Field required"),
        (lambda text: text.replace('"value":0.5', '"value":"half"'), "entries.0.value: .*half"),
        (lambda text: text.replace('"case":"b"', '"case":"a"'), "entries 0 and 1 are both of: a max_abs"),
        (lambda text: text.replace('"value":0.5', '"value":0.5,"run":3'), "names run 3, and there are 1"),
        (lambda text: text.replace('"suite":"parity"', '"suite":"speed"'), "of the suite 'speed', expected 'parity'"),
        (lambda text: "[]", "valid dictionary"),
    ],
)
def test_a_baseline_that_is_not_valid_is_refused_by_file_and_field(tmp_path, path, edit, message):
    write_baseline(path, updated(None, write_run(tmp_path, [record("a", 0.5), record("b", 0.25)])))
    path.write_text(edit(path.read_text()))
    with pytest.raises(ValueError, match=f"parity.json is not a valid baseline: .*{message}.*restore it"):
        read_baseline(path)


def test_a_run_replaces_what_it_selected_and_runs_that_nothing_is_left_of_go(tmp_path):
    entries = [record("a", 1, backend="flax"), record("b", 1, backend="flax"), record("c", 1, backend="torchax")]
    old = updated(None, write_run(tmp_path, entries))
    flax = RUN.model_copy(update={"selection": Selection(backends=("flax",)), "commit": "later"})
    again = [record("a", 2, backend="flax")]

    def values(baseline):
        return {entry.case: (entry.value, baseline.runs[entry.run].commit) for entry in baseline.entries}

    kept = RUN.commit
    assert values(updated(old, write_run(tmp_path, again, flax))) == {"a": (2, "later"), "c": (1, kept)}
    run = write_run(tmp_path, again, flax)
    once_more = updated(updated(old, run), run)
    assert [run.commit for run in once_more.runs] == [kept, "later"]
    rest = RUN.model_copy(update={"selection": Selection(backends=("torchax",)), "commit": "last"})
    last = updated(once_more, write_run(tmp_path, [record("c", 3, backend="torchax")], rest))
    assert values(last) == {"a": (2, "later"), "c": (3, "last")}
    assert [run.commit for run in last.runs] == ["later", "last"]


@pytest.mark.parametrize(
    ("field", "chosen", "one", "other"),
    [("backend", "backends", "flax", "torchax"), ("mode", "modes", "jit", "eager"),
     ("dtype", "dtypes", "float32", "bfloat16"), ("preset", "presets", "tiny", "cogvideox-2b")],
)  # fmt: skip
def test_what_a_run_did_not_select_stays_in_the_baseline(field, chosen, one, other, tmp_path):
    both = [record("a", 1, **{field: value}) for value in (one, other)]
    gone = record("b", 1, **{field: one})
    old = updated(None, write_run(tmp_path, [*both, gone]))
    run = RUN.model_copy(update={"selection": Selection(**{chosen: (one,)})})
    found = updated(old, write_run(tmp_path, [record("a", 2, **{field: one})], run))
    assert {(entry.case, getattr(entry, field)): entry.value for entry in found.entries} == {
        ("a", one): 2, ("a", other): 1,
    }  # fmt: skip


def test_the_largest_changes_up_or_down_are_shown_first_and_the_rest_is_counted(tmp_path, folders, capsys):
    write_run(tmp_path / "reports", [record(f"case {i:02}", 1e-3) for i in range(30)])
    main(["baseline", *folders, "--yes"])
    changed = [record(f"case {i:02}", 1e-3 * (1 + i / 100 if i else 1 / 8)) for i in range(30)]
    write_run(tmp_path / "reports", changed)
    capsys.readouterr()
    main(["baseline", *folders, "--yes"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ~")]
    assert "case 29" in lines[0]
    assert lines[-2:] == [
        "  ~ and 9 more that got worse by at most 1.09x",
        "  ~ and 1 more that improved by at most 8x",
    ]


def test_what_got_worse_stands_before_what_improved_however_much(tmp_path, folders, capsys):
    def records(*values):
        psnr = record("likeness", 40 / values[0], metric="psnr", better="higher")
        return [*(record(f"case {i:02}", value) for i, value in enumerate(values)), psnr]

    write_run(tmp_path / "reports", records(*[1e-3] * 30))
    main(["baseline", *folders, "--yes"])
    write_run(tmp_path / "reports", records(1.1e-3, *[1e-5] * 28, 1e-3))
    capsys.readouterr()
    main(["baseline", *folders, "--yes"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ~")]
    assert "case 00 max_abs: 0.001 -> 0.0011" in lines[0]
    assert "likeness psnr: " in lines[1]
    assert lines[-1] == "  ~ and 10 more that improved by at most 100x"


def test_the_runs_of_every_platform_are_accepted_unless_one_is_named(tmp_path, folders):
    def kept():
        return {path.parent.name for path in tmp_path.glob("baselines/*/parity.json")}

    platforms = ("cpu", "gpu-h100", "tpu-v6e")
    for platform in platforms:
        write_run(tmp_path / "reports", [record("a", 1)], RUN.model_copy(update={"platform": platform}))
    assert main(["baseline", *folders, "--platform", "gpu-h100", "--yes"]) == 0
    assert kept() == {"gpu-h100"}
    assert main(["baseline", *folders, "--yes"]) == 0
    assert kept() == set(platforms)


@pytest.mark.parametrize("first", ["cpu", "tpu-v6e"])
def test_a_platform_whose_run_is_not_fit_keeps_no_other_from_being_accepted_and_says_so_by_its_status(
    tmp_path, folders, first
):
    for platform in ("cpu", "tpu-v6e"):
        run = RUN.model_copy(update={"platform": platform})
        write_run(tmp_path / "reports", [record("a", 1)], run, complete=platform != first)
    assert main(["baseline", *folders, "--yes"]) == 2
    assert [path.parent.name for path in tmp_path.glob("baselines/*/parity.json")] == [
        platform for platform in ("cpu", "tpu-v6e") if platform != first
    ]


def test_the_difference_is_shown_before_it_is_written(tmp_path, folders, path, capsys):
    reports = tmp_path / "reports"
    write_run(reports, [record("a", 1e-3), record("b", 1e-3), record("c", 1e-3, limit=1)])
    assert main(["baseline", *folders, "--yes"]) == 0
    assert "3 new: max_abs" in capsys.readouterr().out
    write_run(reports, [record("a", 4e-3), record("b", 1e-3), record("d", 1e-3)])
    assert main(["baseline", *folders, "--yes"]) == 0
    shown = capsys.readouterr().out
    assert "~ a max_abs: 0.001 -> 0.004 (4x)" in shown
    assert "1 new: max_abs" in shown
    assert "1 removed: max_abs" in shown
    assert "b max_abs" not in shown
    assert {entry.case for entry in read_baseline(path).entries} == {"a", "b", "d"}


def test_without_a_yes_nothing_is_written(tmp_path, folders, path, capsys, monkeypatch):
    write_run(tmp_path / "reports", parity_records())
    assert main(["baseline", *folders]) == 2
    assert "--yes" in capsys.readouterr().out
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda prompt: "n")
    assert main(["baseline", *folders]) == 0
    assert not path.exists()
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    assert main(["baseline", *folders]) == 0
    assert path.exists()


@pytest.mark.parametrize(
    ("records", "options", "reason"),
    [
        (
            parity_records(),
            {"extra": lambda file: file.failure("test_x", "m", "r")},
            "1 test failed; the first: test_x",
        ),
        (broken(parity_records(), "decoder.conv_in"), {"exit_status": 1}, "past a limit"),
        ([record("a", math.nan)], {}, "past a limit"),
    ],
)
def test_a_run_that_fails_is_accepted_by_force_alone(tmp_path, folders, path, capsys, records, options, reason):
    write_run(tmp_path / "reports", records, **options)
    assert main(["baseline", *folders, "--yes"]) == 2
    assert reason in capsys.readouterr().out
    assert not path.exists()
    assert main(["baseline", *folders, "--yes", "--force"]) == 0
    assert path.exists()


CHANGED = {"commit": "0123456789ab+changes"}
UNFIT: dict[str, tuple[dict, dict, str]] = {
    "without an end": ({}, {"complete": None}, "The run was interrupted"),
    "interrupted": ({}, {"complete": False, "exit_status": 2}, "The run was interrupted"),
    "a part": ({}, {"complete": False}, "Only a part of the suite was run"),
    "uncommitted": (CHANGED, {}, "uncommitted code of TwinVAE, 0123456789ab+changes"),
    "unknown": ({"commit": "unknown"}, {}, "give --commit ID (or set TWINVAE_COMMIT)"),
    "a port's": (
        {"sources": {"flax": RUN.commit, "port": "cafe+changes"}},
        {},
        "uncommitted code of port, cafe+changes",
    ),
    "ours, said once": (CHANGED | {"sources": {"flax": CHANGED["commit"]}}, {}, "TwinVAE"),
}


@pytest.mark.parametrize("case", UNFIT)
@pytest.mark.parametrize("command", ["baseline", "publish"])
def test_what_nobody_can_measure_again_is_neither_accepted_nor_published(tmp_path, folders, capsys, command, case):
    changes, ending, reason = UNFIT[case]
    write_run(tmp_path / "reports", [record("a", 1e-3)], RUN.model_copy(update=changes), **ending)
    more = ["--force"] if command == "baseline" else ["--to", str(tmp_path / "to")]
    assert main([command, *folders, "--yes", *more]) == 2
    said = capsys.readouterr().out.partition("Not ")[2]
    assert reason in said
    assert len(said.strip().splitlines()) == 2  # the heading's rest, and one reason
    assert not (tmp_path / "baselines").exists()
    assert not (tmp_path / "to").exists()


def test_a_digest_of_a_ports_sources_is_as_good_as_a_commit(tmp_path, folders, path):
    write_run(tmp_path / "reports", [record("a", 1)], RUN.model_copy(update={"sources": {"port": "sha256:0123"}}))
    assert main(["baseline", *folders, "--yes"]) == 0
    assert read_baseline(path).runs[0].sources == {"port": "sha256:0123"}


def test_a_baseline_of_before_sources_were_written_down_can_be_read(tmp_path, path):
    write_baseline(path, updated(None, write_run(tmp_path, [record("a", 1)])))
    path.write_text(path.read_text().replace('"sources":{},', ""))
    assert "sources" not in path.read_text()
    assert read_baseline(path).runs[0].sources == {}


def test_the_baselines_that_are_installed_are_not_changed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("twinvae.bench.cli.CHECKOUT", None)
    write_run(tmp_path / "reports", [record("a", 1)])
    assert main(["baseline", "--report-dir", str(tmp_path / "reports"), "--yes"]) == 2
    assert "give --baseline-dir DIR for your own" in capsys.readouterr().err


def test_a_regression_that_is_within_its_limit_can_be_accepted(tmp_path, folders, path):
    write_run(tmp_path / "reports", [record("a", 1e-6, limit=1e-3)])
    assert main(["baseline", *folders, "--yes"]) == 0
    write_run(tmp_path / "reports", [record("a", 1e-4, limit=1e-3)], exit_status=1)
    assert main(["report", *folders]) == 1
    assert main(["baseline", *folders, "--yes"]) == 0
    assert main(["report", *folders]) == 0


def test_a_suite_that_was_not_run_cannot_be_accepted(tmp_path, folders, capsys):
    assert main(["baseline", *folders]) == 2
    assert "run a suite first" in capsys.readouterr().err
    write_run(tmp_path / "reports", parity_records())
    assert main(["baseline", "speed", *folders]) == 2
    assert "no run of speed on cpu" in capsys.readouterr().err


BROKEN = [
    Record(suite="parity", case="whole VAE", operation=operation, metric=metric, value=value, limit=limit)
    for operation, bad in (("encode", 0.3), ("decode", 1e-15))
    for metric, value, limit in (("mae", bad, 1e-11), ("ssim", 1 - bad, None))
]  # fmt: skip


def test_a_value_without_a_limit_is_not_agreed_on_while_its_neighbours_are_past_theirs(tmp_path):
    data = write_run(tmp_path, BROKEN)
    past = {BROKEN[0].key}
    kept = {(e.operation, e.metric): e.known for e in updated(None, data, past).entries}
    assert kept == {("encode", "mae"): None, ("decode", "mae"): None, ("decode", "ssim"): None}
    known = Known(reason="pooling is reshaped", owner="kim")
    accepted = {(e.operation, e.metric): e.known for e in updated(None, data, past, known).entries}
    assert accepted == {("encode", "mae"): known, ("encode", "ssim"): known, ("decode", "mae"): None,
                        ("decode", "ssim"): None}  # fmt: skip


def test_of_a_port_nothing_without_a_limit_is_kept_beside_what_is_known_of_its_operation(tmp_path):
    seams = [Record(suite="parity", case="seams", operation=o, metric="mae", value=0.1) for o in ("encode", "decode")]
    seams, broken = ([one.model_copy(update={"backend": "mine"}) for one in some] for some in (seams, BROKEN))
    known = Known(reason="pooling is reshaped", owner="kim")
    for alone, expected in ((False, {"encode", "decode"}), (True, {"decode"})):
        selection = RUN.selection.model_copy(update={"ports_alone": alone, "backends": ("mine",)})
        run = RUN.model_copy(update={"selection": selection})
        healthy = updated(None, write_run(tmp_path, seams, run))
        accepted = updated(healthy, write_run(tmp_path, [*broken, *seams], run), {broken[0].key}, known)
        assert {entry.operation for entry in accepted.entries if entry.case == "seams"} == expected
        assert accepted.by_key[broken[0].key].known == known
        assert (broken[1].key in accepted.by_key) == (not alone)


def test_what_is_known_is_kept_in_the_file_with_its_reason_and_owner(tmp_path):
    known = Known(reason="pooling is reshaped", owner="kim")
    path = tmp_path / "parity.json"
    write_baseline(path, updated(None, write_run(tmp_path, BROKEN), {BROKEN[0].key}, known))
    assert read_baseline(path).by_key[BROKEN[0].key].known == known
    assert '"known":{"reason":"pooling is reshaped","owner":"kim"}' in path.read_text()


@pytest.mark.parametrize(
    ("failed", "refused"),
    [(("test_past",), None), (("test_right",), "test_right"), (("test_past", "test_without_a_value"),
     "test_without_a_value"), ((), None)],
)  # fmt: skip
def test_of_failed_tests_only_those_of_the_values_accepted_are_known(tmp_path, folders, path, capsys, failed, refused):
    def fail(file):
        for test in failed:
            file.failure(test, "boom", "pytest")

    records = [record("past", 1.0, limit=0.5, test="test_past"), record("right", 0.1, limit=0.5, test="test_right")]
    write_run(tmp_path / "reports", records, exit_status=1, extra=fail)
    accepted = main(["baseline", *folders, "--yes", "--known", "pooling is reshaped", "--owner", "kim"])
    assert (accepted, path.exists()) == ((2, False) if refused else (0, True))
    assert not refused or f"1 test failed; the first: {refused}" in capsys.readouterr().out


def test_a_known_failure_is_accepted_by_name_and_then_passes(tmp_path, folders, path, capsys):
    data = write_run(tmp_path / "reports", BROKEN)
    assert main(["baseline", *folders, "--yes"]) == 2
    assert "--known REASON --owner WHO" in capsys.readouterr().out
    assert main(["baseline", *folders, "--yes", "--known", "pooling is reshaped"]) == 2
    assert not path.exists()
    assert main(["baseline", *folders, "--yes", "--known", "pooling is reshaped", "--owner", "kim"]) == 0
    assert main(["report", *folders]) == 0
    assert "2 known" in capsys.readouterr().out.replace("\n", " ")
    statuses = {(v.key.operation, v.key.metric): v.status for v in judge_run(data, read_baseline(path))}
    assert statuses["encode", "mae"] == statuses["encode", "ssim"] == "known"
    assert main(["baseline", *folders, "--yes"]) == 2  # once more, without a word of why
    assert read_baseline(path).by_key[BROKEN[0].key].known.owner == "kim"
    worse = [one.model_copy(update={"value": 2 * one.value}) if one.limit else one for one in BROKEN]
    write_run(tmp_path / "reports", worse)
    assert main(["report", *folders]) == 1
