"""Ports under the suites: a correct one passes, a wicked one costs no other verdict, and what is not judged is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.twinvae.port.made_up import CLASS, written
from twinvae.bench.cli import main
from twinvae.bench.records import RunData, read_run

ROOT = Path(__file__).parents[2]
# diffusers' own class on PyTorch, as a stranger would hand it in: quick, since it compiles nothing.
THEIRS = """
import torch
from diffusers import AutoencoderKLCogVideoX

layout, arrays = "bcthw", "torch"


def make(folder, dtype):
    return AutoencoderKLCogVideoX.from_pretrained(folder, torch_dtype=getattr(torch, dtype))
"""
LEAST = (
    THEIRS
    + """
from twinvae.checkpoint import write_checkpoint
from twinvae.config import preset_config
from twinvae.seeded import seeded_tensors
import tempfile
preset, dtype = "tiny", "float64"
folder = tempfile.mkdtemp()
write_checkpoint(folder, preset_config("tiny"), seeded_tensors(preset_config("tiny"), 0))
vae = make(folder, "float64")
del make
def encode(video): return vae.encode(video).latent_dist.mode()
def decode(latents): return vae.decode(latents).sample
"""
)
# Everything that a port should not do, each for clips of one length.
WICKED = (
    CLASS
    + """
import os, sys, time

class Wicked(Mine):
    def encode(self, x):
        if x.shape[1] == 3:
            os.environ.update(JAX_ENABLE_X64="1"), np.seterr(all="raise"), print("encoding"), os.fork()
            sys.exit("no more")
        return encode_(x) * (np.nan if x.shape[1] == 4 else 1)
    def decode(self, z):
        if z.shape[1] == 5:
            time.sleep(600)
        if z.shape[1] == 6:
            os._exit(1)
        return {"video": None} if z.shape[1] == 7 else decode_(z)
    def gradients(self, video, cotangent):
        np.seterr(all="raise")
        raise MemoryError("no gradients today")
    def activations(self, operation, clip): return {"encoder.conv_in": clip}

def make(tensors): return Wicked(tensors)
"""
)
GOOD = (
    CLASS
    + """
def make(tensors):
    class Good(Mine):
        def decode(self, z): return decode_(z)
    return Good(tensors)
"""
)
CASES = ("suites/parity/test_frame_counts.py", "suites/parity/test_gradients.py", "suites/parity/test_vae.py")


@pytest.fixture
def check(tmp_path, monkeypatch) -> Callable[..., tuple[int, dict[str, RunData]]]:
    """`check(port, *arguments)`: what `twinvae check` leaves in a folder of its own, by suite, and its status."""
    monkeypatch.chdir(tmp_path)

    def check(port: str, *arguments: str, pytest_arguments: tuple[str, ...] = ()) -> tuple[int, dict[str, RunData]]:
        out = Path("out") / Path(port).stem
        status = main([
            "check", port, "--platform", "cpu", "--report-dir", str(out), *arguments,
            "--", "-q", "-p", "no:cacheprovider", *pytest_arguments,
        ])  # fmt: skip
        return status, {path.stem: read_run(path) for path in sorted((out / "cpu" / "records").glob("*.jsonl"))}

    return check


def test_a_correct_port_with_encode_and_decode_alone_has_no_failure_and_what_it_lacks_is_listed(
    check, tmp_path, capsys
):
    chosen = ("-k", "whole_vae or -2-3] or 9-2-9 or causality or tiled_results or gradients or nan_in")
    status, runs = check(written(tmp_path, text=LEAST), pytest_arguments=chosen)
    assert status == 0, capsys.readouterr()
    assert set(runs) == {"frames", "parity", "tiling"}
    assert not any(run.failures for run in runs.values())
    parity = runs["parity"]
    assert {(record.backend, record.mode, record.dtype) for record in parity.records} == {
        ("mine.py", "eager", "float64")
    }
    assert not any(record.operation == "logvar" for record in parity.records)
    assert {"mean", "decode", "reconstruct"} <= {record.operation for record in parity.records}
    assert any("gives latents alone" in line for line in parity.run.ports)
    assert any(line.startswith("mine.py: batches, gradients (1 test)") for line in parity.run.unjudged)
    assert any(line.startswith("mine.py: tiling") for line in runs["tiling"].run.unjudged)
    page = (tmp_path / "out" / "mine" / "cpu" / "parity.md").read_text()
    assert "gives latents alone" in page
    assert any(line == "mine.py: judged on: shapes, whole" for line in parity.run.ports)


def values(run: RunData) -> dict[Any, float | None]:
    return {record.key._replace(backend=""): record.value for record in run.records}


def test_a_wicked_port_has_the_other_verdicts_of_one_that_is_not_and_each_of_its_deeds_is_told(check, tmp_path):
    chosen = (*CASES, "-k", "whole_vae or gradients or 2-2 or -2-9 or 3-2-1 or 5-2-1 or 6-2-1 or 7-2-1 or 8-2-1")
    options = ("--dtype", "float64", "--time-limit", "2")
    _, runs = check(written(tmp_path, GOOD, "good.py"), *options, pytest_arguments=chosen)
    good = runs["parity"]
    status, runs = check(written(tmp_path, WICKED, "wicked.py"), *options, pytest_arguments=chosen)
    wicked = runs["parity"]
    assert status == 1
    told = {failure.test.partition("float64")[2].strip("-]") or failure.case: failure.message
            for failure in wicked.failures}  # fmt: skip
    deeds = {
        "test_gradients_match_the_reference": "PortRaised", "3-2-9-18": "PortRaised", "5-2-1-2": "PortTimedOut",
        "6-2-1-2": "PortEnded", "7-2-1-2": "PortGave",
    }  # fmt: skip
    assert {test: told[test].split(":")[0] for test in deeds} == deeds
    assert "sys.exit('no more')" in told["3-2-9-18"]
    spoilt = {"2x3x9x18x3", "2x4x9x18x3", "2x5x1x2x4", "2x6x1x2x4", "2x7x1x2x4"}
    of_good, of_wicked = (
        {key: value for key, value in values(run).items() if key.shape not in spoilt} for run in (good, wicked)
    )
    assert of_good == of_wicked
    assert {key.shape for key in of_good} > {"2x2x9x18x3", "2x5x9x18x3", "2x3x1x2x4", "2x8x1x2x4"}
    assert [v for key, v in values(wicked).items() if key.shape == "2x4x9x18x3"] == [float("inf")] * 2
