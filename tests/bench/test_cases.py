"""Cases as files: what is exported is judged when it comes back, and nothing else is taken for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import twinvae
from twinvae.bench.cases import Outputs, cases_of, digest, read_outputs
from twinvae.bench.cli import main
from twinvae.bench.diagnosis.run import diagnose_outputs
from twinvae.bench.models import Model
from twinvae.bench.records import read_run
from twinvae.checkpoint import read_checkpoint


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "elsewhere"
    assert main(["export-cases", str(folder), "--dtype", "float64", "--seed", "3"]) == 0
    return folder


@pytest.fixture(scope="module")
def outputs(exported) -> dict[str, np.ndarray]:
    """What diffusers makes of the inputs, read from the folder alone."""
    vae = twinvae.load("torch", weights=str(exported / "checkpoint"), dtype="float64")
    inputs = load_file(exported / "inputs.safetensors")
    return {
        name: vae.encode(clip).moments if name.startswith("encode") else vae.decode(clip)
        for name, clip in inputs.items()
    }


def stated(folder: Path) -> str:
    return json.loads((folder / "cases.json").read_text())["digest"]


def test_right_outputs_pass_and_a_wrong_one_is_told_by_its_case(exported, outputs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_file(outputs, exported / "outputs.safetensors", metadata={"digest": stated(exported)})
    options = ["--outputs", str(exported), "--platform", "cpu", "--report-dir", "out"]
    check = ["check", *options, "--", "-q", "--no-diagnose"]
    assert main(check) == 0, capsys.readouterr()
    data = read_run(tmp_path / "out" / "cpu" / "records" / "parity.jsonl")
    assert {record.backend for record in data.records} == {"elsewhere"}
    assert "elsewhere" in data.run.selection.backends  # whose findings are shown
    cases = cases_of(Model.of_preset("tiny", 3), "float64", 3)
    assert {record.shape for record in data.records} == {"x".join(map(str, case.clip.shape)) for case in cases}
    assert json.loads((tmp_path / "out" / "cpu" / "verdict.json").read_text())["failed"] is False
    (exported / "outputs.safetensors").unlink()
    wrong = outputs | {"decode-1x3x2x3": outputs["decode-1x3x2x3"] + 1e-6}
    wrong |= {name: array[..., :4] for name, array in outputs.items() if name.startswith("encode")}
    del wrong["decode-1x7x2x3"]
    np.savez(exported / "outputs.npz", digest=stated(exported), **wrong)
    assert main(check) == 1
    failed = {failure.test.partition("[")[2]: failure.message for failure in
              read_run(tmp_path / "out" / "cpu" / "records" / "parity.jsonl").failures}  # fmt: skip
    assert set(failed) == {"decode-1x3x2x3]", "decode-1x7x2x3]"}
    assert "no array 'decode-1x7x2x3'" in failed["decode-1x7x2x3]"]
    (exported / "outputs.npz").unlink()


def test_outputs_are_searched_for_causes_as_a_port_is(exported, outputs, tmp_path):
    wrong = {name: array.clip(-1, 1) if name.startswith("decode") else array for name, array in outputs.items()}
    wrong["encode-1x1x16x24"] = outputs["encode-1x1x16x24"][..., :4]  # of a mean alone nothing is known
    del wrong["decode-2x3x2x3"]
    cases = cases_of(Model.of_preset("tiny", 3), "float64", 3)
    found = diagnose_outputs(Outputs("elsewhere", Model.of_preset("tiny", 3), "float64", cases, wrong), seconds=60)
    (finding,) = found.findings
    assert (finding.backend, finding.operations, finding.command) == ("elsewhere", ("decode",), "")
    assert finding.headline.startswith("In decode, video is clipped to [-1, 1]")
    assert found.tried == len(cases) - 2


def test_the_digest_tells_apart_every_input_and_the_checkpoint():
    cases = cases_of(Model.of_preset("tiny", 0), "float32", 0)
    other = [cases[0]._replace(clip=cases[0].clip + np.float32(1e-6)), *cases[1:]]
    assert len({digest(cases, "a"), digest(cases, "b"), digest(other, "a"), digest(cases[1:], "a")}) == 4


def test_the_checkpoint_that_is_exported_is_the_seeded_one(exported):
    tensors = read_checkpoint(exported / "checkpoint")[1]
    expected = Model.of_preset("tiny", 3).tensors()
    assert all(np.array_equal(tensors[name], tensor) for name, tensor in expected.items())


BAD = {
    "no manifest": (lambda f, d: (f / "cases.json").unlink(), FileNotFoundError, "no such file; put outputs beside"),
    "no outputs": (lambda f, d: None, FileNotFoundError, "found 0 of outputs.safetensors and outputs.npz"),
    "two outputs": (
        lambda f, d: (np.savez(f / "outputs.npz", digest=d), save_file({}, f / "outputs.safetensors", {"digest": d})),
        FileNotFoundError, "found 2 of outputs.safetensors and outputs.npz, expected one",
    ),
    "no digest": (lambda f, d: np.savez(f / "outputs.npz", x=1.0), ValueError, "names the digest none"),
    "of other inputs": (lambda f, d: np.savez(f / "outputs.npz", digest="ab12"), ValueError, "names the digest ab12"),
    "cut short": (lambda f, d: (f / "outputs.safetensors").write_bytes(b"ab"), ValueError, "cannot be read"),
    "of another version": (
        lambda f, d: (f / "cases.json").write_text((f / "cases.json").read_text().replace(d, "0" * 16)), ValueError,
        "is of the cases 0000000000000000, and this version makes",
    ),
    "no JSON": (lambda f, d: (f / "cases.json").write_text("{"), ValueError, "is no manifest"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_of_these_cases_is_refused_in_words(case, exported, tmp_path):
    spoil, kind, words = BAD[case]
    (tmp_path / "cases.json").write_text((exported / "cases.json").read_text())
    spoil(tmp_path, stated(exported))
    with pytest.raises(kind, match=words):
        read_outputs(tmp_path)


def test_bad_options_of_exporting_are_status_2(tmp_path, capsys):
    assert main(["export-cases", str(tmp_path), "--dtype", "bfloat16"]) == 2
    assert "--dtype bfloat16: expected float32 or float64" in capsys.readouterr().err
    assert main(["check"]) == 2
    assert "name what to check" in capsys.readouterr().err
    assert main(["check", "--outputs", str(tmp_path)]) == 2
