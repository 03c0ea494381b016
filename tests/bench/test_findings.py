"""Findings: where an error is born, what explains what, and the order in which causes are said."""

from __future__ import annotations

import pytest

from tests.bench.synthetic import RUN, broken, parity_records, write_run
from twinvae.bench.baselines import updated
from twinvae.bench.findings import Finding, find, first_departures
from twinvae.bench.records import Failure, Record
from twinvae.bench.report import SHOWN, diagnosed_in, terminal_lines, write_diagnosis
from twinvae.bench.verdicts import Verdict, judge, judge_run

BORN = "decoder.up_blocks.0.resnets.1"


def baseline_of(tmp_path):
    return updated(None, write_run(tmp_path, parity_records()))


@pytest.mark.parametrize("layer", ["encoder.conv_in", "decoder.up_blocks.0.resnets.1", "decoder.conv_out"])
def test_the_first_layer_that_departs_is_named_for_each_mode_and_dtype(tmp_path, layer):
    baseline = baseline_of(tmp_path)
    data = write_run(tmp_path, broken(parity_records(), layer)[::-1])
    departures = first_departures(judge_run(data, baseline))
    assert {d.verdict.key.layer for d in departures} == {layer}
    assert {d.verdict.key.backend for d in departures} == {"flax"}
    assert len({d.place for d in departures}) == 6
    assert [d.verdict.key.dtype for d in departures[:2]] == ["float64", "float64"]


def test_a_departure_is_found_by_the_limit_without_any_baseline(tmp_path):
    layer = "decoder.mid_block.resnets.0"
    departures = first_departures(judge_run(write_run(tmp_path, broken(parity_records(), layer)), None))
    assert {(d.verdict.key.layer, d.later) for d in departures} == {(layer, 10)}


def test_a_departure_within_the_limit_is_found_by_the_baseline(tmp_path):
    grown = [
        r.model_copy(update={"value": 50 * r.value}) if r.layer == "encoder.norm_out" else r for r in parity_records()
    ]
    departures = first_departures(judge_run(write_run(tmp_path, grown), baseline_of(tmp_path)))
    assert {(d.verdict.key.layer, d.later) for d in departures} == {("encoder.norm_out", 0)}


def test_nothing_departs_where_nothing_got_worse(tmp_path):
    assert first_departures(judge_run(write_run(tmp_path, parity_records()), baseline_of(tmp_path))) == []


def failed(test: str, message: str, backend: str = "flax") -> Failure:
    return Failure(test=test, message=message, rerun=f"pytest {test}", backend=backend)


def test_one_broken_block_is_one_finding_that_explains_all_that_it_broke(tmp_path):
    records = [r for r in broken(parity_records(), BORN) if r.metric != "mae" and "test_layers" not in r.test]
    verdicts = judge_run(write_run(tmp_path, records), None)
    (explained,) = [one for one in find(verdicts, []) if one.finding.kind == "block"]
    assert (explained.finding.cause, explained.finding.operations) == (BORN, ("decode",))
    assert explained.finding.headline == f"The first block that departs in flax decode is {BORN}."
    assert (
        explained.finding.explains == len(explained.verdicts) == sum(v.failing and v.key.preset != "" for v in verdicts)
    )
    assert explained.finding.command.startswith("pytest ")


def test_every_failing_value_and_test_stands_under_one_finding(tmp_path):
    verdicts = judge_run(write_run(tmp_path, broken(parity_records(), BORN)), None)
    failures = [
        failed("suites/x.py::test_y[a]", "boom"),
        failed("suites/x.py::test_y[b]", "boom"),
        failed("suites/x.py::test_z", "other"),
        failed(next(v for v in verdicts if v.failing).record.test, "past"),
    ]
    found = find(verdicts, failures)
    assert sorted(map(id, (v for one in found for v in one.verdicts))) == sorted(id(v) for v in verdicts if v.failing)
    assert sorted(f.test for one in found for f in one.failures) == sorted(f.test for f in failures)
    tests = [one.finding for one in found if one.finding.kind == "failure"]
    assert [(f.headline, f.explains) for f in tests] == [("test_y: boom", 2), ("test_z: other", 1)]


@pytest.mark.parametrize("message", ["boom", "PortRaised: decode raised OSError: no card"])
def test_what_fails_alike_in_two_backends_is_a_finding_of_each(message):
    broken = [failed(f"suites/x.py::test_y[{name}]", message, name[:-1]) for name in ("flax1", "mine1", "flax2")]
    found = find([], broken)
    assert [(one.finding.backend, one.finding.explains, one.failures) for one in found] == [
        ("flax", 2, (broken[0], broken[2])), ("mine", 1, (broken[1],)),
    ]  # fmt: skip


def test_a_layer_that_departs_alone_is_named_once_whatever_the_dtype():
    test = "suites/parity/test_layers.py::test_x[{}]"
    verdicts = [
        judge(Record(suite="parity", case=f"downsample, {variant}", metric="max_abs", value=1.0, limit=0.1,
                     backend="port", dtype=dtype, test=test.format(variant + dtype)))
        for variant in ("first batch", "later batch") for dtype in ("float64", "float32")
    ]  # fmt: skip
    ((finding, ours, _),) = find(verdicts, [])
    assert (finding.kind, finding.cause, finding.explains, len(ours)) == ("layer", "downsample", 4, 4)


def test_what_experiments_found_stands_first_and_takes_the_values_of_its_operation_and_backend(tmp_path):
    verdicts = judge_run(write_run(tmp_path, broken(parity_records(), BORN)), None)
    ours = Finding(kind="signature", cause="odd latents", headline="In decode, ...", backend="flax",
                   operations=("decode",))  # fmt: skip
    others = [ours.model_copy(update=update) for update in ({"backend": "torchax"}, {"operations": ("encode",)},
                                                            {"tiled": True})]  # fmt: skip
    found = find(verdicts, [], [*others, ours])
    explains = {(f.backend, f.operations, f.tiled): f.explains for f, *_ in found if f.kind == "signature"}
    assert explains.pop(("flax", ("decode",), False)) > 0
    assert set(explains.values()) == {0}
    assert not [f for f, *_ in found if f.kind == "block"]


def failing(test: str, **fields: str) -> Verdict:
    return judge(Record(suite="parity", test=test, metric="mae", value=1.0, limit=0.1, backend="mine", **fields))


def test_a_cause_explains_whole_models_of_other_configs_and_no_layer_alone():
    of_settings = failing("suites/parity/test_settings.py::test_x", case="settings 24", operation="encode")
    of_a_layer = failing("suites/parity/test_layers.py::test_x", case="CogVideoXDownsample3D", operation="encode")
    cause = Finding(kind="signature", cause="odd", headline="In encode, ...", backend="mine", operations=("encode",))
    first, second = find([of_settings, of_a_layer], [], [cause])
    assert (first.finding.cause, first.verdicts, second.verdicts) == ("odd", (of_settings,), (of_a_layer,))


def test_what_a_port_did_is_said_once_whichever_tests_it_did_it_in():
    tests = ("suites/parity/test_vae.py::test_x[mine]", "suites/frames/test_counts.py::test_y[mine-1]",
             "suites/frames/test_counts.py::test_y[mine-2]")  # fmt: skip
    raised = "decode raised OSError: no card (mine.py, line 3, in decode)"
    broken = [failed(test, f"PortRaised: {raised}", "mine") for test in tests]
    other = failed("suites/parity/test_vae.py::test_x[mine]", "PortGave: encode returned None", "mine")
    first, second = find([], [*broken, other])
    assert (first.finding.headline, first.failures) == (f"PortRaised: {raised}", tuple(broken))
    assert first.finding.evidence == ("In test_x, test_y.",)
    assert second.failures == (other,)
    said = Finding(kind="raises", cause="decode raises", headline=f"decode fails: {raised}", backend="mine")
    first, second = find([], [other, *broken], [said])
    assert (first.finding.cause, first.failures, second.failures) == ("decode raises", tuple(broken), (other,))
    without_words = said.model_copy(update={"headline": "decode raises."})
    taken = {one.finding.headline: one.failures for one in find([], broken, [without_words])}
    assert taken["decode raises."] == ()


def test_what_is_about_pipelines_or_checkpoints_alone_takes_their_values_and_tests_and_no_others():
    of_pipeline, of_decode = (
        failing(f"suites/parity/test_{file}.py::test_x", case=case, preset="tiny")
        for file, case in (("pipeline", "pipeline, text to video"), ("vae", "whole VAE"))
    )
    saved = failed("suites/parity/test_checkpoint.py::test_diffusers_reads[mine]", "AssertionError", "mine")
    wrapped = failed("suites/parity/test_pipeline.py::test_a_pipeline[mine]", "PortGave: no torch tensor", "mine")
    theirs = failed("suites/parity/test_checkpoint.py::test_diffusers_reads[flax]", "AssertionError")
    said = {"kind": "signature", "headline": "...", "backend": "mine"}
    wrapper = Finding(cause="wrapper", about="pipeline", operations=("decode",), **said)
    saver = Finding(cause="saver", about="checkpoint", **said)
    found = find([of_pipeline, of_decode], [saved, wrapped, theirs], [wrapper, saver])
    assert [(one.finding.kind, one.verdicts, one.failures) for one in found] == [
        ("signature", (of_pipeline,), (wrapped,)), ("signature", (), (saved,)), ("failure", (), (theirs,)),
        ("value", (of_decode,), ()),
    ]  # fmt: skip


@pytest.mark.parametrize(("tiled", "explained"), [(True, ["tiling"]), (False, ["tiling", "parity"])])
def test_a_cause_explains_what_runs_in_tiles_and_one_of_tiles_that_alone(tiled, explained):
    values = [
        failing("test_x", case="whole VAE", preset="tiny", operation="decode").key._replace(suite=suite)
        for suite in explained
    ]
    cause = Finding(kind="signature", cause="odd", headline="In decode, ...", backend="mine", operations=("decode",),
                    tiled=tiled)  # fmt: skip
    assert [key.suite for key in values if cause.is_about(key)] == explained
    assert cause.is_about(values[0]._replace(suite="parity")) is not tiled


# Where a test failed of outputs of another shape, whether a cause of decoding explains it, and one of its tiles alone.
SHAPES = {
    "suites/parity/test_vae.py::test_decode_x[mine]": (True, False),
    "suites/parity/test_vae.py::test_encode_x[mine]": (False, False),
    "suites/parity/test_vae.py::test_reconstruct[mine]": (True, False),
    "suites/tiling/test_grids.py::test_x[mine-decode]": (True, True),
    "suites/tiling/test_grids.py::test_x[mine-encode]": (False, False),
    "suites/parity/test_layers.py::test_x[mine-decode]": (False, False),
}


@pytest.mark.parametrize("test", SHAPES)
def test_outputs_of_another_shape_are_explained_by_a_cause_of_that_operation(test):
    for tiled, explained in zip((False, True), SHAPES[test], strict=True):
        cause = Finding(kind="signature", cause="odd", headline="In decode, ...", backend="mine",
                        operations=("decode",), tiled=tiled)  # fmt: skip
        for message, backend, taken in (
            ("shapes differ: (1,) and (2,)", "mine", explained), ("NaN", "mine", False),
            ("shapes differ: (1,) and (2,)", "other", False),
        ):  # fmt: skip
            first = next(
                one for one in find([], [failed(test, message, backend)], [cause]) if one.finding.cause == "odd"
            )
            assert bool(first.failures) is taken


def test_the_terminal_says_each_cause_once_whichever_suites_it_shows_in():
    tiles, doubled = (
        Finding(kind="signature", cause=cause, headline=f"In decode, {cause}.", evidence=("a", "b", "c"),
                explains=number, command=f"twinvae diagnose {cause}")
        for cause, number in (("tiles", 1), ("doubled", 3))
    )  # fmt: skip
    test = Finding(kind="failure", cause="test_x", headline="test_x: shapes differ")
    lines = terminal_lines([test, tiles, doubled, doubled.model_copy(update={"explains": 4})])
    assert lines == [
        "  1. In decode, tiles. (1 value or test)", "     a", "     b", "     $ twinvae diagnose tiles",
        "  2. In decode, doubled. (7 values and tests)", "     a", "     b", "     $ twinvae diagnose doubled",
        "  3. test_x: shapes differ",
    ]  # fmt: skip
    others = doubled.model_copy(update={"headline": "In the other's decode, doubled."})
    assert [line for line in terminal_lines([doubled, others]) if "doubled." in line] == [
        "  1. In decode, doubled. (3 values and tests)", "  2. In the other's decode, doubled. (3 values and tests)",
    ]  # fmt: skip
    many = [tiles.model_copy(update={"cause": str(number)}) for number in range(SHOWN + 2)]
    assert terminal_lines(many)[-1] == "  and 2 findings more on the pages"


def test_nothing_is_found_where_nothing_fails(tmp_path):
    assert find(judge_run(write_run(tmp_path, parity_records()), baseline_of(tmp_path)), []) == []


@pytest.mark.parametrize(("date", "backend", "shown"), [
    ("2026-11-20T10:00:01", "flax", True), ("2026-11-20T09:59:59", "flax", False), ("2026-11-20T10:00:01", "x", False),
])  # fmt: skip
def test_a_diagnosis_is_shown_on_pages_of_its_backend_s_runs_that_began_before_it(date, backend, shown, tmp_path):
    run = RUN.model_copy(update={"date": "2026-11-20T10:00:00"})
    finding = Finding(kind="signature", cause="odd latents", headline="In decode, ...", backend=backend)
    write_diagnosis(tmp_path, backend, [finding], date)
    assert diagnosed_in(tmp_path, run) == ((finding,) if shown else ())
