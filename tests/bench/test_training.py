"""`twinvae train`, from a folder of videos to a VAE that diffusers reads, and what it says of what it cannot use."""

from __future__ import annotations

import runpy

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX

import twinvae
from impl_flax.train.recipes import Recipe, Stage
from stages.video import write_video
from twinvae.bench import training
from twinvae.bench.cli import main
from twinvae.bench.effort import little_effort
from twinvae.bench.training_curve import curve, running_mean
from twinvae.checkpoint import read_checkpoint, write_checkpoint
from twinvae.config import DOWN_BLOCK, UP_BLOCK, VAEConfig
from twinvae.seeded import seeded_tensors

CONFIG = VAEConfig(
    block_out_channels=(4, 4, 4, 4), down_block_types=(DOWN_BLOCK,) * 4, up_block_types=(UP_BLOCK,) * 4,
    latent_channels=2, layers_per_block=1, norm_num_groups=2,
)  # fmt: skip
RECIPE = Recipe(config=CONFIG, stages=(Stage(steps=2, clips=1, frames=9, height=16, width=16),), compute="bfloat16")


@pytest.fixture
def clips(tmp_path, monkeypatch):
    """A folder with a clip, one that is too short, and a file that is none; all frames are made small."""
    monkeypatch.setattr(training, "SIZE", (16, 24))
    folder = tmp_path / "clips"
    noise = np.random.default_rng(0).integers(0, 256, (60, 32, 48, 3), np.uint8)
    write_video(folder / "noise.mp4", [noise], 8)
    write_video(folder / "brief.mp4", [noise[:5]], 8)
    (folder / "words.txt").write_text("no video")
    return folder


def test_a_folder_of_videos_becomes_a_vae_and_the_same_command_goes_on(clips, tmp_path, capsys, monkeypatch):
    recipe, out = tmp_path / "recipe.json", tmp_path / "vae"
    recipe.write_text(RECIPE.model_dump_json())
    command = ["train", "--clips", str(clips), "--recipe", str(recipe), "--out", str(out)]
    with little_effort():
        assert main(command) == 0
    said = capsys.readouterr().err
    assert "left out: brief, of whose 5 frames 4 are trained on, and a step takes 9" in said
    assert "words.txt" in said
    weights = out / "diffusion_pytorch_model.safetensors"
    first, written = weights.read_bytes(), weights.stat().st_mtime_ns
    video = np.random.default_rng(1).uniform(-1, 1, (1, 5, 16, 16, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = AutoencoderKLCogVideoX.from_pretrained(out).encode(torch.tensor(video).permute(0, 4, 1, 2, 3))
    ours = twinvae.load("flax", weights=out).encode(video)
    np.testing.assert_allclose(ours.mode(), theirs.latent_dist.mode().permute(0, 2, 3, 4, 1), atol=1e-4)
    card = (out / "README.md").read_text()
    assert "| noise |" in card
    assert "Steps: 2" in card
    assert (out / "curve.svg").read_bytes().startswith(b"<?xml")
    monkeypatch.setattr("sys.argv", ["train", str(clips), str(out), "--recipe", str(recipe)])
    with little_effort(), pytest.raises(SystemExit) as ended:
        runpy.run_module("examples.train", run_name="__main__")  # the same command, which finds all steps done
    assert not ended.value.code
    assert weights.stat().st_mtime_ns > written
    assert weights.read_bytes() == first


def test_a_decoder_is_trained_on_and_its_encoder_stays(clips, tmp_path):
    recipe, first, out = tmp_path / "recipe.json", tmp_path / "first", tmp_path / "better"
    recipe.write_text(RECIPE.model_dump_json())
    before = seeded_tensors(CONFIG, 0)
    write_checkpoint(first, CONFIG, before)
    with little_effort():
        command = ["train", "--clips", str(clips), "--recipe", str(recipe), "--decoder-of", str(first)]
        assert main([*command, "--out", str(out)]) == 0
    config, after = read_checkpoint(out)
    changed = {name.split(".")[0] for name, tensor in after.items() if (tensor != before[name]).any()}
    assert changed == {"decoder"}
    assert config.scaling_factor != CONFIG.scaling_factor  # which is of the clips


def test_devices_are_a_mesh_that_shares_a_steps_clips(clips, tmp_path, monkeypatch):
    given, recipe = [], tmp_path / "recipe.json"
    recipe.write_text(
        RECIPE.model_copy(update={"stages": (Stage(steps=1, clips=4, height=16, width=16),)}).model_dump_json()
    )

    def run(recipe, clips, folder, *, first, mesh, say):
        given.append(mesh)
        raise FloatingPointError("far enough")

    monkeypatch.setattr(training, "make_mesh", lambda clips: f"a mesh of {clips}")
    monkeypatch.setattr(training, "run_training", run)
    for devices in ("2", "1"):
        assert main(["train", "--clips", str(clips), "--recipe", str(recipe), "--devices", devices]) == 1
    assert given == ["a mesh of 2", None]


@pytest.mark.parametrize("arguments", [("--clips", "nowhere"), ("--recipe", "nothing"), ("--hold-out", "nobody"),
                                       ("--devices", "2")])  # fmt: skip
def test_what_it_cannot_use_is_said_in_a_line(arguments, clips, capsys):
    assert main(["train", "--clips", str(clips), *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(" ".join(arguments))


def test_a_folder_without_videos_is_said(tmp_path, capsys):
    assert main(["train", "--clips", str(tmp_path)]) == 2
    assert "holds no video that ffmpeg can read" in capsys.readouterr().err


def test_a_log_of_a_training_that_was_stopped_can_be_drawn(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text("".join(f'{{"step": {step}, "loss": {loss}, "square": 0.04}}\n'
                           for step, loss in ((25, 0.5), (50, 0.4), (50, 0.4))))  # fmt: skip
    assert curve(log).startswith(b"<?xml")
    np.testing.assert_allclose(running_mean(np.array([1.0, 2.0, 6.0]), 1), [1.5, 3.0, 4.0])
