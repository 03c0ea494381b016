"""Ports under the suites: a correct one passes, a wicked one costs no other verdict, and what is not judged is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suites.conftest  # noqa: F401, whose fixtures the suite that is made up below takes
from tests.twinvae.port.made_up import CLASS, written
from twinvae.bench import PLUGINS, options, places, plugin, ports
from twinvae.bench.cli import main
from twinvae.bench.models import TRAINED, Model
from twinvae.bench.ports import other_range, taken_by
from twinvae.bench.records import RunData, read_run
from twinvae.registry import backend_module

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
CASES = ("suites/frames/test_counts.py", "suites/parity/test_gradients.py")
LENGTHS = (*(f"encode-8-{frames}" for frames in (2, 3, 4, 5)), *(f"decode-2-{latents}" for latents in (3, 5, 6, 7, 8)))


@pytest.fixture
def check(tmp_path, monkeypatch) -> Callable[..., tuple[int, dict[str, RunData]]]:
    """`check(port, *arguments)`: what `twinvae check` leaves in a folder of its own, by suite, and its status."""
    monkeypatch.chdir(tmp_path)

    def check(port: str, *arguments: str, pytest_arguments: tuple[str, ...] = ()) -> tuple[int, dict[str, RunData]]:
        out = Path("out") / Path(port).stem
        status = main([
            "check", port, "--platform", "cpu", "--report-dir", str(out), *arguments,
            "--", "-q", "-p", "no:cacheprovider", "--no-diagnose", *pytest_arguments,
        ])  # fmt: skip
        return status, {path.stem: read_run(path) for path in sorted((out / "cpu" / "records").glob("*.jsonl"))}

    return check


def test_a_correct_port_with_encode_and_decode_alone_has_no_failure_and_what_it_lacks_is_listed(
    check, tmp_path, capsys
):
    chosen = ("-k", "whole_vae or -2-3] or -8-9] or causality or tiled_results or gradients or nan_in")
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
    chosen = (*CASES, "-k", " or ".join(["gradients", *(f"float64-{length}]" for length in LENGTHS)]))
    options = ("--dtype", "float64", "--time-limit", "2")
    _, good = check(written(tmp_path, GOOD, "good.py"), *options, pytest_arguments=chosen)
    status, wicked = check(written(tmp_path, WICKED, "wicked.py"), *options, pytest_arguments=chosen)
    assert status == 1
    told = {failure.test.partition("float64")[2].strip("-]") or failure.case: failure.message
            for run in wicked.values() for failure in run.failures}  # fmt: skip
    deeds = {
        "test_gradients_match_the_reference": "PortRaised", "encode-8-3": "PortRaised", "decode-2-5": "PortTimedOut",
        "decode-2-6": "PortEnded", "decode-2-7": "PortGave",
    }  # fmt: skip
    assert {test: told[test].split(":")[0] for test in deeds} == deeds
    assert "sys.exit('no more')" in told["encode-8-3"]
    spoilt = {f"{frames}, {size} at a time" for frames, size in (
        ("3 frames", 8), ("4 frames", 8), ("5 latents", 2), ("6 latents", 2), ("7 latents", 2))}  # fmt: skip
    of_good, of_wicked = (
        {key: value for key, value in values(run["frames"]).items() if key.case not in spoilt} for run in (good, wicked)
    )
    assert of_good == of_wicked
    assert {key.case.partition(",")[0] for key in of_good} == {"2 frames", "5 frames", "3 latents", "8 latents"}
    assert [v for key, v in values(wicked["frames"]).items() if key.case.startswith("4 frames")] == [float("inf")]


# A backend of the house, which runs in this process, and tests of it that raise, hang and set what they like.
IN_PROCESS = """
import os, signal, time
import jax, numpy as np, pytest, torch
from twinvae.registry import REFERENCE

def spoil(vae):
    vae.num_latent_frames_batch_size = 1
    vae.enable_tiling(16, 16)
    vae.surplus = True
    jax.config.update("jax_enable_x64", True)
    torch.set_default_dtype(torch.float64)
    os.environ["SPOILT"] = "1"

@pytest.mark.parametrize("way", ["raises", "exits", "hangs", "passes"])
def test_spoils(way, load, options):
    vae = load(REFERENCE, options.models[0], "eager", "float32")
    spoil(vae)
    if way == "raises": raise RuntimeError
    if way == "exits": raise SystemExit
    if way == "hangs": time.sleep(60)

@pytest.mark.parametrize("way", ["raises", "exits", "hangs", "passes"])
def test_is_as_before(way, load, options, once):
    vae = load(REFERENCE, options.models[0], "eager", "float32")
    assert (vae.num_latent_frames_batch_size, vae.use_tiling) == (2, False)
    assert vae.tile_settings.tile_sample_min_height == 32
    assert not hasattr(vae, "surplus")
    assert (jax.config.jax_enable_x64, torch.get_default_dtype()) == (False, torch.float32)
    assert "SPOILT" not in os.environ
    kept = once("array", lambda: np.zeros(3))
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 1
"""


def test_what_a_backend_in_this_process_sets_or_breaks_in_one_test_is_not_there_in_the_next(tmp_path, monkeypatch):
    suite = tmp_path / "suites" / "made_up"
    suite.mkdir(parents=True)
    (suite / "test_in_process.py").write_text(IN_PROCESS)
    (tmp_path / "suites" / "conftest.py").write_text(
        "from suites.conftest import *\nfrom suites.conftest import _as_loaded"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for module in (places, plugin, options):
        monkeypatch.setattr(module, "SUITES", tmp_path / "suites", raising=False)
    monkeypatch.chdir(tmp_path)
    plugins = [part for name in PLUGINS for part in ("-p", name)]
    given = (
        "--backend",
        "torch",
        "--preset",
        "tiny",
        "--platform",
        "cpu",
        "--report-dir",
        "out",
        "--time-limit",
        "0.1",
    )
    pytest.main([*plugins, "-p", "no:randomly", "--import-mode=importlib", "suites/made_up", *given, "-q"])
    told = {failure.test.partition("::")[2]: failure.message for failure in
            read_run(tmp_path / "out" / "cpu" / "records" / "made_up.jsonl").failures}  # fmt: skip
    assert told == {
        "test_spoils[raises]": "RuntimeError: ", "test_spoils[exits]": "SystemExit: ",
        "test_spoils[hangs]": "TimeoutError: took longer than 0.5 s (see --time-limit)",
    }  # fmt: skip


def test_a_new_port_is_a_template_whose_wrapper_saver_and_loader_are_judged_and_no_file_is_written_over(
    check, tmp_path, capsys
):
    path = tmp_path / "port.py"
    assert main(["new-port", str(path)]) == 0
    chosen = (*(f"suites/parity/test_{name}.py" for name in ("pipeline", "checkpoint")),
              "-k", "text or bit_for_bit or shards")  # fmt: skip
    status, runs = check(str(path), "--preset", "tiny", "--dtype", "float32", pytest_arguments=chosen)
    assert (status, runs["parity"].failures) == (0, ()), capsys.readouterr()
    assert {record.case: record.value for record in runs["parity"].records if record.metric == "mae"} == {
        "pipeline, text to video": pytest.approx(0, abs=1e-6)
    }
    assert runs["parity"].run.unjudged == ()
    port = backend_module(str(path))
    assert port.process.generation == 1  # which takes seconds to start, and is started once
    assert (port.takes, port.facts) == ({"folder", "dtype"}, {"layout": "bcthw", "arrays": "torch"})
    assert {"whole", "moments", "config", "shapes", "reads", "saves", "pipeline"} <= port.CAPABILITIES
    path.write_text("mine")
    assert main(["new-port", str(path)]) == 2
    assert main(["new-port", str(tmp_path / "port")]) == 2
    assert "ends in .py" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_a_builder_that_refuses_an_architecture_is_not_judged_on_any(tmp_path, monkeypatch):
    more = """
def make(path):
    import json
    assert json.load(open(path + "/config.json"))["latent_channels"] == 40, "of one architecture"
    return Mine(1)
"""
    monkeypatch.setattr(ports, "_beside_the_reference", lambda vae, model: (0.0, ""))  # which takes seconds
    models = [Model.of_preset("tiny", 0), TRAINED]
    taken = taken_by(written(tmp_path, CLASS + more), models, True, ("float32",), None, 0)
    assert taken.models == (TRAINED,)
    assert any("not judged on tiny" in note and "of one architecture" in note for note in taken.notes)
    assert "of one architecture: judged on small" in taken.notes
    assert "config" not in backend_module(str(tmp_path / "mine.py")).CAPABILITIES


RANGES = {
    "the same": (lambda video: video, None),
    "from 0 to 1": (lambda video: (video + 1) / 2, "value_range = (0, 1)"),
    "in halves": (lambda video: video / 2, "value_range = (-0.5, 0.5)"),
    "bytes": (lambda video: (video + 1) * 127.5, "value_range = (0, 255)"),
    "clipped": (lambda video: video.clip(-1, 1), None),
    "other values": (lambda video: video[::-1, ::-1] * 0.5, None),
    "nothing": (lambda video: video * 0, None),
    "with its sign exchanged": (lambda video: -video, None),
    "not finite": (lambda video: video * np.nan, None),
    "another shape": (lambda video: video[:, 1:], None),
}


@pytest.mark.parametrize("case", RANGES)
def test_another_range_is_told_from_the_reference_and_nothing_else_is_taken_for_it(case):
    change, words = RANGES[case]
    video = np.random.default_rng(0).normal(0, 0.6, (1, 9, 16, 24, 3))
    assert other_range(change(video), video) == (
        "" if words is None else f"decode returns the reference's values in another range: {words} in the port says so"
    )
