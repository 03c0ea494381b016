"""Run files: what is written comes back, and what was cut short is read as far as it goes."""

from __future__ import annotations

import itertools
import math

import ml_dtypes
import numpy as np
import pytest
from pydantic import ValidationError

from tests.bench.synthetic import RUN, parity_records, write_run
from twinvae.bench.provenance import collect, platform_name
from twinvae.bench.records import Record, RunFile, Selection, read_run


def record(**fields) -> Record:
    return Record(**{"suite": "parity", "case": "norm", "metric": "max_abs", "value": 1e-9} | fields)


def test_a_run_file_gives_back_every_record_failure_and_how_the_run_ended(tmp_path):
    records = parity_records()
    extra = lambda file: file.failure("test_x", "first\nsecond", "pytest test_x", backend="flax")  # noqa: E731
    data = write_run(tmp_path, records, extra=extra, exit_status=1)
    assert (data.run, list(data.records)) == (RUN, records)
    assert (data.failures[0].message, data.failures[0].backend) == ("first", "flax")
    assert (data.complete, data.interrupted, data.end.exit_status, data.notes) == (True, False, 1, ())


@pytest.mark.parametrize(
    "value", [np.float32(0.5), np.float64("nan"), np.array(math.inf), -math.inf, 7, None], ids=repr
)
def test_a_value_of_any_kind_survives_the_file(tmp_path, value):
    data = write_run(tmp_path, [record(value=value)])
    np.testing.assert_equal(data.records[0].value, None if value is None else float(value))


def test_every_line_is_on_disk_before_the_next_is_measured(tmp_path):
    file = RunFile(tmp_path / "cpu" / "records" / "parity.jsonl")
    file.start(RUN)
    file.record(record())
    data = read_run(file.path)
    assert len(data.records) == 1
    assert data.interrupted
    assert not data.complete


def test_a_last_line_cut_short_is_left_out_with_a_note(tmp_path):
    path = write_run(tmp_path, [record(case="a"), record(case="b")], complete=None).folder / "parity.jsonl"
    path.write_text(path.read_text()[:-40])
    data = read_run(path)
    assert [r.case for r in data.records] == ["a"]
    assert "cut short" in data.notes[0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda text: text.replace('"metric"', '"metrik"', 1), r"parity.jsonl, line 2: .*metri[ck]"),
        (lambda text: text.replace('"value":1e-9', '"value":"large"'), r"line 2: .*value.*large"),
        (lambda text: text[text.index("\n") + 1 :], "does not start with a run"),
        (lambda text: "", "does not start with a run"),
    ],
)
def test_a_run_file_that_is_not_valid_is_refused_by_name_and_line(tmp_path, edit, message):
    path = write_run(tmp_path, [record()]).folder / "parity.jsonl"
    path.write_text(edit(path.read_text()))
    with pytest.raises(ValueError, match=message):
        read_run(path)


def test_two_records_of_one_thing_are_refused(tmp_path):
    with pytest.raises(ValueError, match="two records of one thing: norm max_abs"):
        write_run(tmp_path, [record(value=1), record(value=2)])


@pytest.mark.parametrize(
    "field", ["case", "backend", "operation", "mode", "dtype", "preset", "shape", "metric", "layer"]
)
def test_records_that_differ_in_any_field_of_the_key_are_of_different_things(field):
    assert record(**{field: "other"}).key != record().key


def test_a_record_with_an_unknown_field_is_refused():
    with pytest.raises(ValidationError, match="colour"):
        record(colour="red")


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "cpu").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"cannot write .*cpu.*--report-dir"):
        write_run(tmp_path, [])


def test_exhibits_come_back_as_arrays_and_a_new_run_removes_them(tmp_path):
    array = np.array([0.5, -2], ml_dtypes.bfloat16)
    extra = lambda file: file.exhibit("frame", {"output": array}, backend="flax", mode="jit")  # noqa: E731
    data = write_run(tmp_path, [], extra=extra)
    path = data.folder / data.exhibits[0].file
    with np.load(path, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["output"], [0.5, -2])
    write_run(tmp_path, [])
    assert not path.exists()


def test_exhibits_of_one_name_are_told_apart_by_backend_mode_and_dtype(tmp_path):
    fields = ("backend", "mode", "dtype")
    each = list(itertools.product(("flax", "torchax"), ("eager", "jit"), ("float32", "bfloat16")))

    def show(file):
        for number, values in enumerate(each):
            file.exhibit("frame", {"output": np.array(number)}, **dict(zip(fields, values, strict=True)))

    data = write_run(tmp_path, [], extra=show)
    found = {}
    for exhibit in data.exhibits:
        with np.load(data.folder / exhibit.file, allow_pickle=False) as arrays:
            found[tuple(getattr(exhibit, field) for field in fields)] = int(arrays["output"])
    assert found == {values: number for number, values in enumerate(each)}


def test_a_selection_holds_what_it_names_and_what_has_no_such_field():
    selection = Selection(backends=("flax",), dtypes=("float64", "float32"))
    assert selection.holds("flax", "jit", "float32", "tiny")
    assert selection.holds("", "", "", "")
    assert not selection.holds("torchax", "jit", "float32", "tiny")
    assert not selection.holds("flax", "jit", "bfloat16", "tiny")


@pytest.mark.parametrize(
    ("backend", "kind", "name"),
    [
        ("gpu", "NVIDIA H200", "gpu-h200"),
        ("gpu", "NVIDIA H100 80GB HBM3", "gpu-h100"),
        ("gpu", "NVIDIA A100-SXM4-80GB", "gpu-a100"),
        ("gpu", "NVIDIA L4", "gpu-l4"),
        ("tpu", "TPU v6 lite", "tpu-v6e"),
        ("tpu", "TPU v5 lite", "tpu-v5e"),
        ("tpu", "TPU7x", "tpu-7x"),
    ],
)
def test_platforms_have_the_names_that_people_use(backend, kind, name):
    assert platform_name(backend, kind) == name


def test_provenance_names_versions_machine_and_input():
    given = {"seed": 3, "weights": "seeded", "clip": "synthetic", "selection": Selection()}
    run = collect("parity", "cpu", **given)
    assert {"python", "jax", "torch", "diffusers"} <= run.versions.keys()
    assert (run.seed, run.weights, run.clip, run.nan_input) == (3, "seeded", "synthetic", False)
    assert run.device
    assert run.cores >= 1
    assert run.machine == collect("parity", "cpu", **given).machine


@pytest.mark.parametrize("tolerance", [1, 1.1, math.inf])
def test_a_tolerance_is_a_factor_from_one_up(tmp_path, tolerance):
    data = write_run(tmp_path, [record(tolerance=tolerance)])
    assert data.records[0].tolerance == tolerance


@pytest.mark.parametrize("tolerance", [0, 0.1, 0.99, -1, math.nan])
def test_a_tolerance_below_one_is_refused_with_how_to_write_it(tolerance):
    with pytest.raises(ValidationError, match=r"factor of at least 1 .* write 1 for not at all, 1\.1 for ten per cent"):
        record(tolerance=tolerance)


def test_a_record_without_a_tolerance_may_not_get_worse_at_all():
    assert record().tolerance == 1
