"""The suites' options are checked before anything runs, and select the cases that they name."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from twinvae import PRESETS
from twinvae.bench.clips import synthetic_clip
from twinvae.bench.options import NAMES, Model, check_clip, read_options, selected
from twinvae.bench.ports import Taken
from twinvae.checkpoint import write_checkpoint
from twinvae.seeded import seeded_tensors

GIVEN = {name.replace("-", "_"): None for name in NAMES} | {"one_round": False}
REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "unknown backend": ({"backend": "flax,keras"}, r"--backend flax,keras: unknown 'keras'; choose from flax, "),
    "no backend": ({"backend": ","}, r"--backend ,: found no name"),
    "unknown mode": ({"mode": "lazy"}, r"--mode lazy: unknown 'lazy'; choose from eager, jit"),
    "unknown dtype": ({"dtype": "float16"}, r"--dtype float16: unknown 'float16'; choose from float64, "),
    "unknown preset": ({"preset": "huge"}, r"--preset huge: unknown 'huge'; choose from tiny, "),
    "seed that is no number": ({"seed": "x"}, r"--seed x: expected a whole number"),
    "platform": ({"platform": "../cpu"}, r"--platform '\.\./cpu': expected small letters"),
    "chip": (
        {"aot": "rtx4090"},
        r"--aot rtx4090: unknown chip; choose one of .*h100.* CONTRIBUTING.md says how",
    ),
    "chips": ({"aot": "h100,l4"}, r"several: `nox -s memory -- --aot v6e,v5e`"),
    "chip of another platform": (
        {"aot": "h100", "platform": "tpu-v6e-aot"},
        r"platform is gpu-h100-aot",
    ),
    "subfolder alone": ({"subfolder": "vae"}, r"--subfolder vae: it belongs to --weights"),
    "missing weights": ({"weights": "no/such/folder/at/all"}, r"--weights no/such/folder/at/all: "),
    "no seconds": ({"time_limit": "0"}, r"--time-limit 0: expected seconds, above 0"),
    "seconds in words": ({"time_limit": "1m"}, r"--time-limit 1m: expected seconds, above 0"),
    "missing outputs": ({"outputs": "no-such-folder"}, r"--outputs no-such-folder: .*cases\.json"),
    "ports alike": ({"backend": "a/mine.py,b/mine.py"}, r"two ports are called alike; give their files different"),
    "missing clip": ({"clip": "no-such.mp4"}, r"--clip: .*no-such\.mp4"),
    "missing baselines": ({"baseline_dir": "no-such-folder"}, r"--baseline-dir no-such-folder: no such folder"),
}


def options(**given: Any) -> Any:
    return read_options(Namespace(**(GIVEN | given)))


def test_the_defaults_measure_every_backend_but_the_reference_on_both_sizes():
    chosen = options()
    assert chosen.backends == ("flax", "torchax")
    assert chosen.modes == ("eager", "jit")
    assert chosen.dtypes == ("float64", "float32", "bfloat16")
    assert [model.label for model in chosen.models] == ["tiny", "cogvideox-2b"]
    assert (chosen.weights, chosen.clip_label, chosen.seed, chosen.given) == ("seeded", "synthetic", 0, ())


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_option_is_refused_in_words(case):
    given, words = REFUSED[case]
    with pytest.raises(pytest.UsageError, match=words):
        options(**given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mode": "eager"}, r"--mode eager with --mesh: a mesh runs compiled programs"),
        ({"mode": "eager,jit"}, r"--mode eager,jit with --mesh"),
        ({"backend": "flax,mine.py"}, r"--backend flax,mine\.py with --mesh: a port runs in a process of its own"),
    ],
)
def test_what_a_mesh_cannot_run_is_refused_with_it_alone(given, words, monkeypatch):
    monkeypatch.setattr("twinvae.bench.options.asked", lambda mesh, host: mesh)
    with pytest.raises(pytest.UsageError, match=words):
        options(mesh="rows=2", **given)
    if "mode" in given:
        assert options(**given).modes == tuple(given["mode"].split(","))


@pytest.mark.parametrize(("option", "names"), [
    ("mode", ("eager", "jit")), ("dtype", ("float64", "float32", "bfloat16")), ("backend", ("flax", "torchax")),
])  # fmt: skip
def test_the_order_in_which_names_are_given_changes_nothing(option, names):
    axes = ["model", "backend", "mode", "dtype"]
    for count in range(1, len(names) + 1):
        for some in combinations(names, count):
            given = [options(preset="tiny", **{option: ",".join(order)}) for order in permutations(some)]
            again = options(preset="tiny", **{option: ", ".join((*some, some[0]))})  # blanks, and one twice
            for only in ({}, {"once": True}, {"mode": "first"}):
                assert len({tuple(selected(one, axes, only)) for one in (*given, again)}) == 1


def test_a_commit_is_taken_where_git_knows_none_and_refused_where_it_says_otherwise(monkeypatch):
    monkeypatch.delenv("TWINVAE_COMMIT", raising=False)
    monkeypatch.setattr("twinvae.bench.options.git_commit", lambda: None)
    assert options(commit="0123456").commit == "0123456"
    assert options().commit is None
    with pytest.raises(pytest.UsageError, match="--commit main: expected a commit's id, 7 to 40 hexadecimal digits"):
        options(commit="main")
    monkeypatch.setenv("TWINVAE_COMMIT", "v1")
    with pytest.raises(pytest.UsageError, match="TWINVAE_COMMIT v1: expected a commit's id"):
        options()
    monkeypatch.setattr("twinvae.bench.options.git_commit", lambda: "aaaaaaa+changes")
    assert options().commit is None
    with pytest.raises(pytest.UsageError, match=r"--commit 0123456: git says that this is aaaaaaa\+changes"):
        options(commit="0123456")


def test_a_clip_that_is_no_video_or_too_short_is_refused(tmp_path):
    text = tmp_path / "notes.mp4"
    text.write_text("no video")
    with pytest.raises(pytest.UsageError, match=r"--clip: .*notes\.mp4"):
        options(clip=str(text))
    short = tmp_path / "short.npy"
    np.save(short, synthetic_clip(3, 16, 16, 0)[0])
    assert options(clip=str(short)).clip_label == "short.npy"
    with pytest.raises(pytest.UsageError, match=r"--clip: .*short\.npy.*3 frames.*9"):
        check_clip(short, 9)


def test_a_baseline_that_is_not_valid_is_refused(tmp_path):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "parity.json").write_text("{")
    with pytest.raises(pytest.UsageError, match=r"--baseline-dir: .*parity\.json"):
        options(baseline_dir=str(tmp_path), platform="cpu")


def test_a_report_folder_that_is_a_file_is_refused_and_left_alone(tmp_path):
    file = tmp_path / "reports"
    file.write_text("mine")
    with pytest.raises(pytest.UsageError, match=r"--report-dir .*reports is a file"):
        options(report_dir=str(file))
    assert file.read_text() == "mine"


def test_weights_are_measured_instead_of_the_default_presets_or_beside_named_ones(tmp_path):
    write_checkpoint(tmp_path / "vae", PRESETS["tiny"], seeded_tensors(PRESETS["tiny"], 3))
    given = {"weights": str(tmp_path), "subfolder": "vae"}
    (alone,) = options(**given).models
    assert alone.config == PRESETS["tiny"]
    assert alone.label.startswith(Path(tmp_path).name)
    assert [model.label for model in options(**given, preset="tiny").models] == ["tiny", alone.label]


def test_a_large_model_runs_jitted_in_two_dtypes_unless_asked():
    axes = ["model", "backend", "mode", "dtype"]

    def of_large(only: dict[str, Any], **given: str) -> set[tuple[str, str]]:
        rows = selected(options(**given), axes, only)
        return {row[2:] for row in rows if isinstance(row[0], Model) and row[0].is_large}

    assert of_large({}) == {("jit", "float32"), ("jit", "bfloat16")}
    assert of_large({}, mode="eager", dtype="float64") == {("eager", "float64")}
    assert of_large({"large": False}) == set()
    assert of_large({"asked": True}) == set()
    assert of_large({"asked": True}, preset="cogvideox-2b") == {("jit", "float32"), ("jit", "bfloat16")}


def test_bounds_of_a_test_choose_among_what_was_chosen():
    def rows(only: dict[str, Any], **given: str) -> list[tuple[str, ...]]:
        return selected(options(preset="tiny", backend="flax", **given), ["mode", "dtype"], only)

    assert rows({"once": True}) == [("jit", "float64")]
    assert rows({"mode": ("jit",), "dtype": ("float32",)}) == [("jit", "float32")]
    assert rows({"mode": "first"}, dtype="float32") == [("eager", "float32")]
    assert rows({"mode": "first"}, mode="jit", dtype="float32") == [("jit", "float32")]
    assert rows({"mode": ("jit",)}, mode="eager") == []


@pytest.mark.parametrize("modes", [("eager",), ("jit",), ("eager", "jit")])
def test_what_is_run_once_is_run_once_in_what_a_port_takes(modes):
    chosen = options(preset="tiny", backend="flax")
    for dtypes in (some for count in (1, 2, 3) for some in combinations(chosen.dtypes, count)):
        of_port = replace(chosen, ports={"flax": Taken(chosen.models, modes, dtypes, ())})
        rows = selected(of_port, ["backend", "mode", "dtype"], {"once": True})
        assert rows == [("flax", modes[-1], dtypes[0])]


@pytest.mark.parametrize("only", ["jit", "eager"])
@pytest.mark.parametrize("asked", [("jit",), ("eager",), ("eager", "jit"), "first"])
def test_what_runs_in_one_way_alone_is_judged_in_that_by_tests_of_the_other(only, asked):
    chosen = options(preset="tiny", backend="flax")
    chosen = replace(chosen, ports={"flax": Taken(chosen.models, (only,), chosen.dtypes, ())})
    assert set(selected(chosen, ["backend", "mode"], {"mode": asked})) == {("flax", only)}
