"""Bad input is refused before anything is computed or written, in words that say what was found and what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import twinvae
from twinvae.bench.bars import check_shapes
from twinvae.bench.halves import fitting, given_of
from twinvae.registry import REFERENCE

WEIGHTS = "diffusion_pytorch_model.safetensors"
VIDEO, LATENTS = (1, 2, 16, 24, 3), (1, 2, 2, 3, 4)


def _zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


CALLS: dict[str, tuple[Callable[[twinvae.VideoVAE], Any], str]] = {
    "rank": (lambda vae: vae.encode(_zeros(*VIDEO[1:])), r"shape \(2, 16, 24, 3\): expected 5 axes.*add a batch axis"),
    "channels": (lambda vae: vae.encode(_zeros(*VIDEO[:4], 4)), r"4 channels in .*: expected 3"),
    "latent channels": (lambda vae: vae.decode(_zeros(*LATENTS[:4], 3)), r"latents has 3 channels in .*: expected 4"),
    "torch's layout": (lambda vae: vae.decode(_zeros(1, 4, 2, 3, 5)), r"5 channels .*: expected 4.*move them last"),
    "integers": (lambda vae: vae.encode(_zeros(*VIDEO, dtype=np.uint8)), r"uint8: expected floats.*\[-1, 1\]"),
    "no frames": (lambda vae: vae.encode(_zeros(1, 0, 16, 24, 3)), r"no frames: give at least 1"),
    "no latent frames": (lambda vae: vae.decode(_zeros(1, 0, 2, 3, 4)), r"no frames: give at least 1"),
    "no items": (lambda vae: vae.encode(_zeros(0, 2, 16, 24, 3)), r"no batch items: give at least 1"),
    "frames too small": (lambda vae: vae.encode(_zeros(1, 2, 7, 24, 3)), r"7x24.*must be at least 8"),
    "sample without a key": (lambda vae: vae(_zeros(*VIDEO), sample_posterior=True), r"needs a key: pass key=0"),
    "frame batch": (lambda vae: _with(vae, num_sample_frames_batch_size=0).encode(_zeros(*VIDEO)), "is 0.*at least 1"),
    "latent frame batch": (
        lambda vae: _with(vae, num_latent_frames_batch_size=-1).decode(_zeros(*LATENTS)), "is -1.*at least 1"
    ),
    "no overlap left": (lambda vae: vae.enable_tiling(tile_overlap_factor_width=1.0), r"width is 1\.0: .*below 1"),
    "tile": (lambda vae: vae.enable_tiling(tile_sample_min_height=4), r"height is 4: .* 8 pixels"),
}  # fmt: skip
LOADS: dict[str, tuple[dict[str, Any], str]] = {
    "preset": ({"preset": "huge"}, "unknown preset 'huge': choose one of tiny, "),
    "dtype": ({"dtype": "float8"}, "unknown dtype 'float8': choose one of float64, "),
}


def _config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _tensors(folder: Path, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def _bytes(folder: Path, change: Callable[[bytes], bytes]) -> None:
    path = folder / WEIGHTS
    path.write_bytes(change(path.read_bytes()))


NAME = "decoder.conv_in.conv.bias"
FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), 'config.json not found.*subfolder="vae"'),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
    "another model": (lambda f: _config(f, _class_name="UNet2D"), "class 'UNet2D', expected 'AutoencoderKLCogVideoX'"),
    "unknown field": (lambda f: _config(f, attention=True), "attention: .*found True"),
    "wrong type": (lambda f: _config(f, latent_channels="many"), "latent_channels: .*found 'many'"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), f"holds no weights: expected {WEIGHTS}"),
    "pickle alone": (
        lambda f: (torch.save({}, f / "diffusion_pytorch_model.bin"), (f / WEIGHTS).unlink()), "pickled.*not read"
    ),
    "truncated": (lambda f: _bytes(f, lambda content: content[:-100]), "no whole safetensors file"),
    "empty": (lambda f: _bytes(f, lambda content: b""), "no whole safetensors file"),
    "tampered header": (lambda f: _bytes(f, lambda content: b"\xff" * 8 + content[8:]), "no whole safetensors file"),
    "missing tensor": (lambda f: _tensors(f, lambda t: t.pop(NAME)), f"missing {NAME}"),
    "extra tensor": (lambda f: _tensors(f, lambda t: t.update(extra=_zeros(2))), "not in this architecture: extra"),
    "misshapen tensor": (
        lambda f: _tensors(f, lambda t: t.update({NAME: _zeros(3)})), rf"{NAME} has shape \(3,\), expected \(24,\)"
    ),
    "integer tensor": (
        lambda f: _tensors(f, lambda t: t.update({NAME: _zeros(24, dtype=np.int32)})), f"{NAME} .*I32, expected"
    ),
    "another architecture": (lambda f: _config(f, layers_per_block=2), "do not fit their config .*missing"),
}  # fmt: skip


def _with(vae: twinvae.VideoVAE, **settings: int) -> twinvae.VideoVAE:
    vars(vae).update(settings)
    return vae


@pytest.fixture(scope="module")
def folder(tmp_path_factory, options) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    twinvae.load(REFERENCE, preset="tiny", seed=options.seed).save_pretrained(folder)
    return folder


@pytest.mark.needs("house")
@pytest.mark.parametrize("call", CALLS)
def test_a_bad_call_is_refused_in_words(call, backend, once):
    refused, words = CALLS[call]
    vae = once((__name__, backend), lambda: twinvae.load(backend, preset="tiny"))
    settings = dict(vars(vae))
    with pytest.raises(ValueError, match=words):
        refused(vae)
    vars(vae).update(settings)


@pytest.mark.needs("house")
@pytest.mark.parametrize("argument", LOADS)
def test_a_bad_argument_to_load_is_refused_in_words(argument, backend):
    given, words = LOADS[argument]
    with pytest.raises(ValueError, match=words):
        twinvae.load(backend, **given)


@pytest.mark.needs("house")
def test_the_checkpoint_that_is_spoilt_below_loads(backend, folder):
    assert len(twinvae.load(backend, weights=str(folder)).state_dict()) == len(load_file(folder / WEIGHTS))


@pytest.mark.needs("house")
@pytest.mark.parametrize("case", FOLDERS)
def test_a_bad_checkpoint_is_refused_in_words(case, backend, folder, tmp_path):
    spoil, words = FOLDERS[case]
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    spoil(tmp_path)
    with pytest.raises((ValueError, OSError), match=words):
        twinvae.load(backend, weights=str(tmp_path))


@pytest.mark.needs("house")
def test_a_missing_folder_or_subfolder_is_refused_in_words(backend, folder):
    with pytest.raises(OSError, match="no/such/folder/at/all"):
        twinvae.load(backend, weights="no/such/folder/at/all")
    with pytest.raises(FileNotFoundError, match="no subfolder 'vae'"):
        twinvae.load(backend, weights=str(folder), subfolder="vae")


@pytest.mark.needs("house")
def test_an_unknown_backend_or_layer_is_refused_in_words(backend):
    with pytest.raises(ValueError, match=f"unknown backend 'keras': installed are .*{backend}"):
        twinvae.load("keras")
    with pytest.raises(ValueError, match=r"unknown layer.*'Conv4d'.*choose one of .*CogVideoXCausalConv3d"):
        twinvae.load_layer(backend, "Conv4d", {}, {})


@pytest.mark.needs("house")
def test_tensors_that_do_not_fit_a_layer_are_named(backend):
    init = {"in_channels": 2, "out_channels": 3, "kernel_size": 1}
    fitting = {"weight": _zeros(3, 2, 1, 1, 1), "bias": _zeros(3)}
    spoilt = {"bias": fitting | {"bias": _zeros(4)}, "scale": fitting | {"scale": _zeros(3)},
              "weight": fitting | {"weight": _zeros(3, 2, 1, 1, 3)}}  # fmt: skip
    for name, tensors in {**spoilt, "bias ": {"weight": fitting["weight"]}}.items():
        with pytest.raises(ValueError, match=name.strip()):
            twinvae.load_layer(backend, "CogVideoXSafeConv3d", init, tensors)


@pytest.mark.needs("house")
def test_saving_over_a_file_is_refused_and_leaves_it_alone(backend, tmp_path, options):
    target = tmp_path / "taken"
    target.write_text("mine")
    with pytest.raises(FileExistsError, match="is a file: name a folder"):
        twinvae.load(backend, preset="tiny", seed=options.seed).save_pretrained(target)
    assert target.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


@pytest.mark.needs("house")
def test_a_write_that_fails_half_way_leaves_the_checkpoint_before_it(backend, folder, tmp_path, monkeypatch, options):
    vae = twinvae.load(backend, preset="tiny", seed=options.seed + 1)
    before = {}
    for file in folder.iterdir():
        before[file.name] = file.read_bytes()
        (tmp_path / file.name).write_bytes(before[file.name])

    def full_disk(tensors: Any, path: Path, **_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("twinvae.checkpoint.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        vae.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.only(once=True, large=False)
def test_nan_in_the_input_goes_where_the_reference_takes_it(vae, load, model, dtype, clip):
    video = np.array(clip(9, *fitting(vae, 1, 17, 26)[1:]))
    video[0, 4, 0, 0, 0] = np.nan
    with jax.debug_nans(False):
        found = {"moments": np.asarray(vae.encode(video).moments)}
    expected = np.asarray(load(REFERENCE, model, "eager", dtype).encode(video).moments)
    expected = {"moments": given_of(vae, "encode", expected)}
    check_shapes(found, expected)
    assert np.isnan(expected["moments"]).any()
    np.testing.assert_array_equal(np.isnan(found["moments"]), np.isnan(expected["moments"]))
