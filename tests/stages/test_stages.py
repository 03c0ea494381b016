"""Stages: what runs again and what is kept, what is refused before anything is computed, and what goes on."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from impl_torchax.text_encoder import tokenize
from stages import telling
from stages.checks import check_sizes
from stages.decode import decode
from stages.denoise import Settings, denoise
from stages.files import read
from stages.model import Model
from stages.text import text
from stages.video import write_video
from suites.generation.tiny import PROMPT
from tests.stages.conftest import SETTINGS
from twinvae.__main__ import main


@pytest.fixture
def console() -> Console:
    return Console(record=True, width=400)


@pytest.fixture
def nothing_computed(monkeypatch):
    for module, name in (("text", "load_text_encoder"), ("denoise", "load_transformer"), ("decode", "decoded")):
        monkeypatch.setattr(
            importlib.import_module(f"stages.{module}"), name, lambda *_, **__: pytest.fail("it computed")
        )


@pytest.fixture
def made_up(monkeypatch):
    """Frames are those of the latents, which takes no VAE."""

    def decoded(given, *_):
        yield np.tanh(given.latents[0, ..., :3]).repeat(8, axis=1).repeat(8, axis=2)

    monkeypatch.setattr(importlib.import_module("stages.decode"), "decoded", decoded)


def all_stages(folder, model, console, **changed) -> str:
    text(folder, model, changed.pop("prompt", PROMPT), dtype="float32", console=console)
    denoise(folder, model, SETTINGS._replace(**changed), console=console)
    decode(folder, model, dtype="float32", console=console)
    return console.export_text()


def test_what_is_there_is_kept_where_nothing_differs(run, model, console, nothing_computed):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    said = all_stages(run, model, console)
    assert [line.split(":")[0] for line in said.splitlines() if line.endswith("kept")] == ["text", "denoise", "decode"]
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    assert set(before) == {"text.safetensors", "latents.safetensors", "video.mp4", "decode.json"}


def test_another_prompt_runs_all_stages_again_and_each_says_why(run, model, console, made_up):
    before = (run / "video.mp4").read_bytes()
    said = all_stages(run, model, console, prompt="a guitar plays panda")
    assert f"text: prompt was {PROMPT!r} and is 'a guitar plays panda'" in said
    assert "denoise: inputs text was '" in said
    assert "decode: inputs latents was '" in said
    assert (run / "video.mp4").read_bytes() != before


def test_another_seed_leaves_the_text_and_another_rate_the_latents(run, model, console, made_up):
    said = all_stages(run, model, console, seed=1)
    assert "settings: kept" in said.splitlines()[0]
    assert "denoise: seed was 0 and is 1" in said
    assert "decode: inputs latents was" in said
    decode(run, model, dtype="float32", fps=9, console=console)
    assert "decode: fps was 8 and is 9" in console.export_text()


@pytest.mark.parametrize("spoilt", ["video.mp4", "decode.json"])
def test_a_video_that_is_not_the_one_that_was_written_is_made_again(spoilt, run, model, console, made_up):
    decode(run, model, dtype="float32", fps=9)
    before = (run / "video.mp4").read_bytes()
    (run / spoilt).write_bytes((run / spoilt).read_bytes()[:-9])
    decode(run, model, dtype="float32", fps=9, console=console)
    assert "decode: wrote" in console.export_text()
    assert (run / "video.mp4").read_bytes() == before


def test_weights_that_are_edited_are_another_model(run, other, console, made_up):
    weights = other / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    decode(run, Model(other), dtype="float32", console=console)
    assert "decode: parts vae was" in console.export_text()


def test_weights_that_are_replaced_by_others_of_their_size_are_seen_in_the_same_process(other):
    weights = other / "vae" / "diffusion_pytorch_model.safetensors"
    before, model = Model(other).digests("vae"), Model(other)
    times = weights.stat()
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert model.digests("vae") != before


def test_backends_are_held_against_each_other_frame_by_frame(run, model, console, monkeypatch):
    def decoded(_given, _model, backend, *_):
        frames = np.zeros((2, 16, 16, 3), np.float32)
        if backend == "flax":  # as a mesh gives a stream, several frame batches at a time
            yield np.concatenate([frames, frames])
            return
        yield frames
        yield frames + (np.arange(2) == 1).reshape(2, 1, 1, 1) * (0.02 if backend == "torch" else 0)

    monkeypatch.setattr(importlib.import_module("stages.decode"), "decoded", decoded)
    decode(run, model, dtype="float32", compare=("torch", "torchax"), console=console)
    told = json.loads((run / "decode.json").read_text())["facts"]["compared"]
    same = {"largest": 0, "mean": 0, "values that differ": 0, "levels": 0}
    assert told["torchax"] == [{"frame": place} | same for place in range(4)]
    assert told["torch"][:3] == told["torchax"][:3]
    assert told["torch"][3] == {"frame": 3, "largest": pytest.approx(0.02), "mean": pytest.approx(0.02),
                                "values that differ": 16 * 16 * 3, "levels": 2}  # fmt: skip
    assert "flax, frame by frame" in console.export_text()


# Refused

PROMPTS = {
    "empty": ("  ", "the prompt is empty: say"),
    "no text": (b"a", "the prompt is a bytes: expected text"),
    "half a character": ("a\udcff", "is no text: expected UTF-8"),
}


@pytest.mark.parametrize("case", PROMPTS)
def test_prompts_that_are_none_are_refused(case, tmp_path, model, nothing_computed):
    prompt, message = PROMPTS[case]
    with pytest.raises(ValueError, match=message):
        text(tmp_path, model, prompt)


def test_a_prompt_that_is_too_long_is_cut_and_it_is_said(run, model, console):
    text(run, model, "a panda plays a guitar a panda plays", dtype="float32", console=console)
    assert "a prompt of 9 tokens was cut to 8" in console.export_text()
    assert len(read(run / "text.safetensors", "text")[1].facts["cut"]) == 1


def test_a_tokenizer_of_sentencepiece_as_models_have_it_is_read(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "words.txt").write_text("a panda plays guitar in a bamboo forest\nthe cat sat on the mat\n" * 20)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "words.txt"), model_prefix=str(tmp_path / "spiece"), vocab_size=24, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, minloglevel=2,
    )  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    own = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model")).encode("a panda")
    assert tokenize(tmp_path, ["a panda"], len(own) + 3).tolist() == [[*own, 1, 0, 0]]


SIZES = {
    "frames": ({"frames": 13}, "13 frames: .*; take 9 or 16"),
    "no frames": ({"frames": 0}, "0 frames: .*; take 1"),
    "height": ({"height": 40}, "a height of 40: expected a multiple of 16; take 32 or 48"),
    "width": ({"width": 8}, "a width of 8: expected a multiple of 16; take 16"),
}


@pytest.mark.parametrize("case", SIZES)
def test_sizes_that_a_model_does_not_take_are_refused_with_the_nearest_that_it_does(case, run, model, nothing_computed):
    changed, message = SIZES[case]
    with pytest.raises(ValueError, match=message):
        denoise(run, model, SETTINGS._replace(**changed))


def test_a_model_with_positions_to_an_end_takes_nothing_larger(other):
    config = other / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"patch_size_t": 2}))
    with pytest.raises(ValueError, match="a width of 64: expected a multiple of 16, at most 48; take 48"):
        check_sizes(Model(other), 9, 32, 64)


@pytest.mark.parametrize(
    ("part", "stage"),
    [("tokenizer", text), ("text_encoder", text), ("transformer", denoise), ("scheduler", denoise), ("vae", decode)],
)
def test_a_part_that_a_model_s_folder_lacks_is_named(part, stage, run, other, nothing_computed):
    shutil.rmtree(other / part)
    arguments = {text: (run, Model(other), "b"), denoise: (run, Model(other), SETTINGS), decode: (run, Model(other))}
    with pytest.raises(FileNotFoundError, match=rf"has no {part}/.*found .*: copy that folder"):
        stage(*arguments[stage])


def test_a_text_of_another_model_is_refused(run, other, nothing_computed):
    config = other / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"of": "another"}))
    with pytest.raises(ValueError, match=r"text.safetensors is of another model: .* another text_encoder"):
        denoise(run, Model(other), SETTINGS)


def test_what_a_model_does_not_start_from_is_refused(run, model, other, tmp_path, nothing_computed):
    Image.new("RGB", (48, 32)).save(tmp_path / "picture.png")
    write_video(tmp_path / "video.mp4", [np.zeros((3, 32, 48, 3), np.uint8)], 8)
    (tmp_path / "text.txt").write_text("text")
    picture, video = {"image": tmp_path / "picture.png"}, {"video": tmp_path / "video.mp4"}
    refused = [(picture | video, "an image and a video"), (picture, "this model starts from no image"),
               (video | {"frames": 9}, "has 3 frames, asked for 9")]  # fmt: skip
    for given, message in refused:
        with pytest.raises(ValueError, match=message):
            denoise(run, model, SETTINGS._replace(**given))
    with pytest.raises(FileNotFoundError, match=r"none\.mp4 not found"):
        denoise(run, model, SETTINGS._replace(video=tmp_path / "none.mp4"))
    config = other / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"in_channels": 8}))
    with pytest.raises(ValueError, match="starts from an image: give one with --image"):
        denoise(run, Model(other), SETTINGS)
    with pytest.raises(OSError, match="is no picture that Pillow reads"):
        denoise(run, Model(other), SETTINGS._replace(image=tmp_path / "text.txt"))


# Going on


@pytest.fixture
def stopped(run, model, monkeypatch):
    """A run whose denoising was killed after the first of two steps."""
    stop(run, model, SETTINGS, monkeypatch)
    return run


def stop(run, model, settings, monkeypatch):
    module = importlib.import_module("stages.denoise")
    sample, steps = module.sample, []

    def killed(*args, **kwargs):
        steps.append(kwargs["last"])
        if steps == [1, 2]:
            raise KeyboardInterrupt
        return sample(*args, **kwargs)

    (run / "latents.safetensors").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(module, "sample", killed)
        with pytest.raises(KeyboardInterrupt):
            denoise(run, model, settings)


def test_denoising_goes_on_after_the_last_step_with_the_same_bits(stopped, finished, model, console):
    denoise(stopped, model, SETTINGS, console=console)
    assert "goes on after step 1" in console.export_text()
    found, expected = (read(folder / "latents.safetensors", "denoise")[0] for folder in (stopped, finished))
    np.testing.assert_array_equal(found["latents"], expected["latents"])
    assert not (stopped / "steps.safetensors").exists()


def test_denoising_in_float64_goes_on_in_float64(run, model, monkeypatch):
    settings, found = SETTINGS._replace(dtype="float64"), []
    for interrupted in (True, False):
        if interrupted:
            stop(run, model, settings, monkeypatch)
        denoise(run, model, settings)
        found.append(read(run / "latents.safetensors", "denoise")[0]["latents"])
        (run / "latents.safetensors").unlink(), (run / "latents.safetensors").touch()
    assert found[0].dtype == np.float64
    np.testing.assert_array_equal(*found)


def test_steps_of_other_settings_or_that_are_damaged_are_no_part_of_a_run(stopped, model, console):
    denoise(stopped, model, SETTINGS._replace(seed=1), console=console)
    assert (
        "begins anew, since what steps.safetensors has is no part of this: seed was 0 and is 1" in console.export_text()
    )
    (stopped / "latents.safetensors").rename(stopped / "steps.safetensors")
    (stopped / "steps.safetensors").write_bytes((stopped / "steps.safetensors").read_bytes()[:-1])
    denoise(stopped, model, SETTINGS._replace(seed=1), console=console)
    assert "begins anew, since what steps.safetensors has is no part of this: " in console.export_text()


def test_the_same_noise_drawn_by_jax_is_another_and_goes_with_its_seed(run, model):
    found = []
    for settings in (SETTINGS, SETTINGS._replace(noise="jax"), SETTINGS._replace(noise="jax", seed=1)):
        denoise(run, model, settings)
        found.append(read(run / "latents.safetensors", "denoise")[0]["latents"].tobytes())
    assert len(set(found)) == 3


def test_how_far_a_stage_is_and_the_time_left_are_said_where_there_is_no_terminal(console, monkeypatch):
    clock = iter([0.0, 4.0, 12.0, 20.0])
    monkeypatch.setattr(telling.time, "monotonic", lambda: next(clock))
    with telling.counting(console, "denoise", 13, 1) as on:
        for steps in (2, 4, 6):  # 3 done after 4 seconds, 7 after 12
            on(steps)
    assert console.export_text().splitlines() == ["denoise: 7 of 13, 12 s left"]


# Commands


def test_the_command_says_in_one_line_what_cannot_be_done(tmp_path, pipeline, capsys):
    assert main(["decode", "--dir", str(tmp_path), "--model", str(pipeline)]) == 2
    said = capsys.readouterr().err
    assert "latents.safetensors not found: `twinvae denoise` makes it" in said
    assert main(["text", "--dir", str(tmp_path), "--model", str(tmp_path / "none"), "--prompt", "a"]) == 2
    assert "none is no folder: name one" in capsys.readouterr().err


def test_the_command_run_takes_the_settings_of_all_stages(run, pipeline, capsys, nothing_computed):
    arguments = ["--dir", str(run), "--model", str(pipeline), "--prompt", PROMPT, "--frames", "1", "--steps", "2"]
    assert main(["run", *arguments, "--no-compile-cache"]) == 0
    assert capsys.readouterr().out.count("kept") == 3


def test_a_process_that_is_interrupted_keeps_its_steps_and_goes_on(run, pipeline):
    steps = run / "steps.safetensors"
    (run / "latents.safetensors").unlink()
    # What a shell starts in the background ignores interrupts, and so does what that starts, unless it is told to.
    heard = ("import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
             "runpy.run_module('twinvae', run_name='__main__')")  # fmt: skip
    command = [sys.executable, "-c", heard, "denoise", "--dir", str(run), "--model", str(pipeline), "--frames", "1",
               "--dtype", "float32", "--no-compile-cache", "--steps"]  # fmt: skip
    with subprocess.Popen([*command, "1000"], stdout=subprocess.PIPE, text=True) as process:
        while not steps.exists() and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped; nothing is lost" in said
    done = read(steps, "denoise")[1].latents.steps
    assert 1 <= done < 1000
    assert list(run.glob("*.part*")) == []


def test_the_command_run_hands_every_option_on_to_the_stages_that_take_it(tmp_path, pipeline, monkeypatch):
    handed: dict[str, dict[str, Any]] = {}
    for stage in ("text", "denoise", "decode"):
        module = importlib.import_module(f"stages.{stage}")
        signature = inspect.signature(getattr(module, stage))

        def noted(*args, stage=stage, signature=signature, **kwargs):
            handed[stage] = signature.bind(*args, **kwargs).arguments

        monkeypatch.setattr(module, stage, noted)
    image = str(tmp_path / "image.png")
    Path(image).touch()
    given = {"prompt": "p", "negative-prompt": "n", "tokens": "7", "frames": "5", "height": "16", "width": "24",
             "steps": "3", "guidance": "2.5", "scheduler": "dpm", "seed": "9", "noise": "jax", "dtype": "bfloat16",
             "image": image, "strength": "0.5", "save-every": "2", "fps": "11", "backend": "torch",
             "compare": "flax,torchax", "mesh": "dp=1", "decode-mesh": "rows=1"}  # fmt: skip
    options = [word for name, value in given.items() for word in (f"--{name}", value)]
    places = ["--dir", str(tmp_path), "--model", str(pipeline), "--no-compile-cache"]
    assert main(["run", *places, *options, "--dynamic-guidance", "--tiling"]) == 0
    text, denoise, decode = (handed[stage] for stage in ("text", "denoise", "decode"))
    assert [text[name] for name in ("prompt", "negative_prompt", "tokens", "dtype")] == ["p", "n", 7, "bfloat16"]
    assert denoise["settings"] == Settings(5, 16, 24, 3, 2.5, True, "dpm", 9, "jax", "bfloat16", Path(image), None, 0.5)
    assert (denoise["save_every"], dict(denoise["mesh"].shape)) == (2, {"dp": 1, "sp": 1, "tp": 1})
    assert [decode[name] for name in ("fps", "backend", "compare", "dtype", "tiling")] == [
        11, "torch", ("flax", "torchax"), "bfloat16", True
    ]  # fmt: skip
    assert dict(decode["mesh"].shape)["rows"] == 1
    assert {one["folder"] for one in (text, denoise, decode)} == {tmp_path}


def test_an_interrupt_ends_with_a_word_and_the_status_of_one(run, pipeline, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.import_module("stages.decode"), "decode", interrupted)
    assert main(["decode", "--dir", str(run), "--model", str(pipeline)]) == 130
    assert "the same command goes on" in capsys.readouterr().out
