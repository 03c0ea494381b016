"""Checkpoints there and back: names, shapes, layouts and bits of every tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from safetensors import safe_open

import twinvae
from suites.parity.bars import CHECKPOINT
from twinvae.arrays import DTYPES, to_numpy
from twinvae.bench.bars import hold
from twinvae.checkpoint import WEIGHTS_FILE, read_checkpoint, write_checkpoint
from twinvae.config import preset_config
from twinvae.seeded import seeded_tensors

FULL, FULL_TENSORS = "cogvideox-2b", 436
# Every field away from its default that changes tensors or arithmetic.
UNUSUAL = twinvae.VAEConfig(
    in_channels=2, out_channels=4, latent_channels=4, block_out_channels=(4, 8), norm_num_groups=2, layers_per_block=2,
    down_block_types=("CogVideoXDownBlock3D",) * 2, up_block_types=("CogVideoXUpBlock3D",) * 2, act_fn="mish",
    norm_eps=1e-2, temporal_compression_ratio=2, use_quant_conv=True, use_post_quant_conv=True,
)  # fmt: skip


# How diffusers writes a folder, and in which dtype: what its own class reads again when it is told of the variant.
FOLDERS: dict[str, tuple[str, dict[str, str]]] = {
    "float64": ("float64", {}), "float32": ("float32", {}), "float16": ("float16", {}), "bfloat16": ("bfloat16", {}),
    "shards": ("float32", {"max_shard_size": "60KB"}), "a variant": ("float16", {"variant": "fp16"}),
}  # fmt: skip


@pytest.mark.needs("weights", "tensors")
@pytest.mark.only(once=True, large={"dtype": ("float32",)})
def test_every_tensor_comes_back_by_its_name_in_its_layout_with_its_bits(vae, model, dtype, record, options):
    given = _given(model, options.seed)
    found = vae.state_dict()
    assert list(found) == list(given) or sorted(found) == sorted(given)
    differing = [name for name, tensor in given.items() if not _same(found[name], tensor.astype(DTYPES[dtype]))]
    bars = CHECKPOINT | {"tensors": CHECKPOINT["tensors"]._replace(limit=len(given))}
    values = {"tensors": len(found), "tensors that differ": len(differing)}
    hold(record, bars, values, "checkpoint", note=", ".join(differing[:3]))


@pytest.mark.needs("saves")
@pytest.mark.only(large=False)
def test_diffusers_reads_a_saved_folder_back_bit_for_bit(backend, model, dtype, load, tmp_path, options):
    vae = load(backend, model, options.modes[-1], dtype)
    vae.save_pretrained(tmp_path)
    read = AutoencoderKLCogVideoX.from_pretrained(tmp_path, torch_dtype=getattr(torch, dtype))
    assert {name: value for name, value in read.config.items() if not name.startswith("_")} == _plain(vae.config)
    tensors, given = read.state_dict(), _given(model, options.seed)
    assert tensors.keys() == given.keys()
    for name, tensor in given.items():
        assert _same(to_numpy(tensors[name]), tensor.astype(DTYPES[dtype])), name


@pytest.mark.needs("saves")
@pytest.mark.only(large=False)
def test_a_saved_file_is_described_as_that_of_diffusers(backend, model, dtype, load, tmp_path, options):
    """Other readers than diffusers' look at its metadata, and a file in another dtype takes more or loses bits."""
    load(backend, model, options.modes[-1], dtype).save_pretrained(tmp_path / "ours")
    read = AutoencoderKLCogVideoX.from_pretrained(tmp_path / "ours", torch_dtype=getattr(torch, dtype))
    read.save_pretrained(tmp_path / "theirs")
    found, expected = (_described(tmp_path / folder / WEIGHTS_FILE) for folder in ("ours", "theirs"))
    assert found == expected


@pytest.mark.needs("reads", "config")
@pytest.mark.parametrize("kind", FOLDERS)
@pytest.mark.only(once=True)
def test_a_folder_of_diffusers_gives_its_values(backend, kind, dtype, tmp_path):
    stored, how = FOLDERS[kind]
    config = preset_config("tiny")
    model = AutoencoderKLCogVideoX(**config.model_dump()).to(getattr(torch, stored))
    model.save_pretrained(tmp_path, **how)
    vae = twinvae.load(backend, weights=str(tmp_path), dtype=dtype)
    given = {name: to_numpy(tensor.to(getattr(torch, dtype))) for name, tensor in model.state_dict().items()}
    if "tensors" in vae.capabilities:
        found = vae.state_dict()
        assert [name for name, tensor in given.items() if not _same(found[name], tensor)] == []
        return
    write_checkpoint(tmp_path / "plain", config, given)
    plain = twinvae.load(backend, weights=str(tmp_path / "plain"), dtype=dtype)
    latents = np.random.default_rng(0).standard_normal((1, 1, 2, 3, config.latent_channels))
    np.testing.assert_allclose(vae.decode(latents), plain.decode(latents), rtol=0, atol=1e-6)


@pytest.mark.needs("weights", "tensors", "config")
def test_an_unusual_architecture_goes_there_and_back_and_computes_the_same(backend, tmp_path, options):
    tensors = seeded_tensors(UNUSUAL, options.seed)
    write_checkpoint(tmp_path, UNUSUAL, tensors)
    assert read_checkpoint(tmp_path)[0] == UNUSUAL
    vae, reference = (twinvae.load(b, weights=str(tmp_path), dtype="float64") for b in (backend, "torch"))
    assert all(_same(tensor, tensors[name].astype(np.float64)) for name, tensor in vae.state_dict().items())
    video = np.random.default_rng(options.seed).uniform(-1, 1, (1, 3, 6, 4, 2))
    posterior, expected = vae.encode(video), reference.encode(video)
    assert np.abs(np.asarray(posterior.moments) - expected.moments).max() <= 1e-10
    decoded = vae.decode(expected.mean)
    assert np.abs(np.asarray(decoded) - reference.decode(expected.mean)).max() <= 1e-10


def test_the_full_architecture_has_diffusers_436_names_and_shapes_in_order():
    config = preset_config(FULL)
    with torch.device("meta"):
        theirs = AutoencoderKLCogVideoX(**config.model_dump()).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.items()}
    found = twinvae.tensors.tensor_shapes(config)
    assert len(found) == FULL_TENSORS
    assert found == shapes


def _given(model, seed: int) -> dict[str, np.ndarray]:
    if model.source.get("weights"):
        return read_checkpoint(model.source["weights"], model.source["subfolder"])[1]
    return seeded_tensors(model.config, seed)


def _described(file: Path) -> tuple[dict[str, str], dict[str, tuple[str, list[int]]]]:
    """The metadata of a safetensors file, and the dtype and shape of each of its tensors."""
    with safe_open(file, framework="np") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118, it is no mapping
        return opened.metadata(), {name: (part.get_dtype(), part.get_shape()) for name, part in slices.items()}


def _same(found: np.ndarray, expected: np.ndarray) -> bool:
    return (found.shape, found.dtype) == (expected.shape, expected.dtype) and np.array_equal(
        found.astype(np.float64), expected.astype(np.float64), equal_nan=True
    )


def _plain(config: twinvae.VAEConfig) -> dict:
    return {name: value for name, value in config.to_dict().items() if not name.startswith("_")}
