"""Checkpoints: diffusers' names and shapes, seeded weights, and folders there and back."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from twinvae import PRESETS, VAEConfig, checkpoint, load
from twinvae.arrays import to_numpy, to_torch
from twinvae.checkpoint import WEIGHTS_FILE, fingerprint, read_checkpoint, variant_of, write_checkpoint
from twinvae.seeded import seeded_tensors
from twinvae.tensors import check_tensors, tensor_shapes

TINY = PRESETS["tiny"]
SMALL = {"block_out_channels": (4, 8), "norm_num_groups": 2, "latent_channels": 3}
TWO_BLOCKS = SMALL | {"down_block_types": TINY.down_block_types[:2], "up_block_types": TINY.up_block_types[:2]}
THREE_BLOCKS = {
    "block_out_channels": (4, 4, 8),
    "norm_num_groups": 4,
    "down_block_types": TINY.down_block_types[:3],
    "up_block_types": TINY.up_block_types[:3],
}
CONFIGS = {
    "tiny": TINY,
    "full": PRESETS["cogvideox-5b"],
    "two blocks": VAEConfig(**TWO_BLOCKS),
    "three blocks, other channels": VAEConfig(**THREE_BLOCKS, in_channels=2, out_channels=5, latent_channels=6),
    "two layers": TINY.model_copy(update={"layers_per_block": 2}),
    "three layers, no temporal level": VAEConfig(**TWO_BLOCKS, layers_per_block=3, temporal_compression_ratio=1),
    "one temporal level": TINY.model_copy(update={"temporal_compression_ratio": 2}),
    "three temporal levels": TINY.model_copy(update={"temporal_compression_ratio": 8}),
    "quant_conv": VAEConfig(**TWO_BLOCKS, use_quant_conv=True),
    "post_quant_conv": VAEConfig(**TWO_BLOCKS, use_post_quant_conv=True),
    "both quant convs": VAEConfig(**TWO_BLOCKS, use_quant_conv=True, use_post_quant_conv=True),
}
QUANT = CONFIGS["both quant convs"]
DTYPES = {name: np.dtype(getattr(ml_dtypes, name, name)) for name in ("float64", "float32", "float16", "bfloat16")}


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


def same_bits(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    """Names in order, dtypes, shapes and bits."""
    return [(n, t.dtype, t.shape, bits(t)) for n, t in found.items()] == [
        (n, t.dtype, t.shape, bits(t)) for n, t in expected.items()
    ]


def diffusers_model(config: VAEConfig, tensors: dict[str, np.ndarray]) -> AutoencoderKLCogVideoX:
    with torch.device("meta"):
        model = AutoencoderKLCogVideoX(**config.model_dump())
    model.load_state_dict({name: to_torch(tensor) for name, tensor in tensors.items()}, assign=True)
    return model.eval()


@pytest.fixture(scope="module")
def tensors() -> dict[str, np.ndarray]:
    return seeded_tensors(TINY, 0)


@pytest.fixture
def folder(tmp_path: Path, tensors: dict[str, np.ndarray]) -> Path:
    write_checkpoint(tmp_path / "vae", TINY, tensors)
    return tmp_path / "vae"


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_names_shapes_and_order_are_diffusers_own(config):
    with torch.device("meta"):
        model = AutoencoderKLCogVideoX(**config.model_dump())
    expected = [(name, tuple(tensor.shape)) for name, tensor in model.state_dict().items()]
    assert list(tensor_shapes(config).items()) == expected


def test_the_full_architecture_has_436_tensors():
    shapes = tensor_shapes(PRESETS["cogvideox-2b"])
    assert len(shapes) == 436
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 215_583_907


# Seeded weights


def test_seeded_tensors_are_those_that_the_baselines_were_measured_with(tensors):
    assert fingerprint(tensors) == "cf58cef9d1237ee1"


def test_a_seeded_tensor_depends_on_its_name_and_the_seed_alone(tensors):
    deeper = seeded_tensors(CONFIGS["two layers"], 0)
    common = [name for name in tensors if name in deeper and tensors[name].shape == deeper[name].shape]
    assert len(common) > 200
    assert all(bits(tensors[name]) == bits(deeper[name]) for name in common)
    other = seeded_tensors(TINY, 1)
    assert all(bits(tensors[name]) != bits(other[name]) for name in tensors)


@pytest.mark.parametrize("seed", [np.int64(7), np.uint8(7), np.array(7)])
def test_an_integer_of_any_kind_is_a_seed(seed):
    name, expected = next(iter(seeded_tensors(TINY, 7).items()))
    assert bits(seeded_tensors(TINY, seed)[name]) == bits(expected)


@pytest.mark.parametrize("seed", [-1, None, 1.0, "1", np.float32(1), np.arange(2)])
def test_what_is_no_seed_is_named(seed):
    with pytest.raises(ValueError, match=r"seed is .*: expected a whole number from 0 up, such as seed=0"):
        load("torch", seed=seed)


def test_no_two_seeded_tensors_are_alike_and_none_is_constant(tensors):
    assert len({bits(tensor) for tensor in tensors.values()}) == len(tensors)
    assert all(tensor.dtype == np.float32 and np.ptp(tensor) > 0.05 for tensor in tensors.values())


@pytest.mark.parametrize("seed", range(2))
def test_seeded_weights_keep_activations_near_unit_scale(seed):
    model = diffusers_model(TINY, seeded_tensors(TINY, seed))
    rows, columns, frames = np.mgrid[0:32, 0:48, 0:9]
    video = np.stack([np.sin(rows / 5 + channel + frames / 3) * np.cos(columns / 7) for channel in range(3)])
    with torch.no_grad():
        posterior = model.encode(torch.from_numpy(video.transpose(0, 3, 1, 2)[None]).float()).latent_dist
        decoded = model.decode(posterior.mode()).sample
    assert 0.3 < posterior.mean.std() < 1
    assert -8 < posterior.logvar.min() < posterior.logvar.max() < 4
    assert 0.3 < decoded.std() < 0.8
    assert decoded.std(dim=(3, 4)).min() > 0.1, "the picture is flat"


# There and back


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES.keys())
def test_a_written_checkpoint_reads_back_bit_for_bit(dtype, tmp_path, tensors):
    tensors = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
    tensors["encoder.norm_out.bias"][:2] = np.nan, -0.0
    write_checkpoint(tmp_path, TINY, tensors)
    config, found = read_checkpoint(tmp_path)
    assert config == TINY
    assert same_bits(found, tensors)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_diffusers_reads_a_written_checkpoint_bit_for_bit(dtype, tmp_path):
    tensors = {name: tensor.astype(DTYPES[dtype]) for name, tensor in seeded_tensors(QUANT, 0).items()}
    write_checkpoint(tmp_path, QUANT, tensors)
    model, info = AutoencoderKLCogVideoX.from_pretrained(
        tmp_path, torch_dtype=getattr(torch, dtype), output_loading_info=True
    )
    assert not any(info.values())
    assert same_bits({name: to_numpy(tensor) for name, tensor in model.state_dict().items()}, tensors)
    assert VAEConfig.from_dict(dict(model.config)) == QUANT


def test_the_file_says_that_its_tensors_are_in_pytorchs_layout(folder):
    """What transformers and older diffusers ask for before they read a safetensors file."""
    with safe_open(folder / WEIGHTS_FILE, framework="np") as file:
        assert file.metadata() == {"format": "pt"}


def test_tensors_whose_memory_is_in_another_order_are_written_as_they_read(tmp_path, tensors):
    transposed = {name: np.asfortranarray(tensor) for name, tensor in tensors.items()}
    write_checkpoint(tmp_path, TINY, transposed)
    assert same_bits(read_checkpoint(tmp_path)[1], tensors)


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("shard", ["5GB", "60KB"])
def test_what_diffusers_saves_is_read(shard, variant, tmp_path, tensors):
    diffusers_model(TINY, tensors).save_pretrained(tmp_path / "vae", max_shard_size=shard, variant=variant)
    assert variant_of(tmp_path / "vae") == variant
    files = list((tmp_path / "vae").glob("*.safetensors"))
    assert (len(files) > 1) == (shard == "60KB")
    config, found = read_checkpoint(tmp_path, subfolder="vae")
    assert config == TINY
    assert same_bits(found, tensors)


@pytest.mark.parametrize("place", ["_orig_mod.{}", "{0[0]}._orig_mod.{0[1]}"])
def test_prefixes_of_a_compiled_model_are_stripped(place, folder, tensors):
    renamed = {
        place.format(name) if "{}" in place else place.format(name.split(".", 1)): tensor
        for name, tensor in tensors.items()
    }
    save_file(renamed, folder / WEIGHTS_FILE)
    assert same_bits(read_checkpoint(folder)[1], tensors)


SHARDS = {"max_shard_size": "60KB"}
SHARDS_A, SHARDS_B = ({"variant": name} | SHARDS for name in "ab")
BESIDE: dict[str, list[tuple[str, dict[str, str]]]] = {  # which model is saved, and how, one after the other
    "a variant's file": [("ours", {}), ("other", {"variant": "fp16"})],
    "a variant's shards": [("ours", {}), ("other", SHARDS | {"variant": "non_ema"})],
    "shards of two variants": [("ours", {}), ("other", SHARDS_A), ("other", SHARDS_B)],
    "shards, beside a variant's file": [("ours", SHARDS), ("other", {"variant": "fp16"})],
    "shards, beside a variant's": [("ours", SHARDS), ("other", SHARDS | {"variant": "fp16"})],
    "shards, beside a plain file": [("ours", SHARDS), ("plain", {})],
}


@pytest.mark.parametrize("case", BESIDE)
def test_of_several_files_that_one_is_read_which_diffusers_reads(case, tmp_path, tensors):
    models = {"ours": tensors, "other": {name: tensor + 1 for name, tensor in tensors.items()}}
    for which, how in BESIDE[case]:
        if which == "plain":  # diffusers clears the shards away when it saves
            save_file(models["other"], tmp_path / WEIGHTS_FILE)
        else:
            diffusers_model(TINY, models[which]).save_pretrained(tmp_path, **how)
    read = AutoencoderKLCogVideoX.from_pretrained(tmp_path, low_cpu_mem_usage=False).state_dict()
    assert same_bits({name: to_numpy(tensor) for name, tensor in read.items()}, tensors)
    assert same_bits(read_checkpoint(tmp_path)[1], tensors)


# The hub


def test_a_hub_id_fetches_config_and_safetensors_only(folder, tensors, monkeypatch):
    asked = {}

    def snapshot_download(repo_id: str, allow_patterns: list[str]) -> str:
        asked[repo_id] = allow_patterns
        return str(folder.parent)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert same_bits(read_checkpoint("owner/name", "vae")[1], tensors)
    assert asked == {"owner/name": ["vae/config.json", "vae/*.safetensors", "vae/*.safetensors.index*.json"]}


def test_a_hub_that_cannot_be_reached_is_an_error_that_names_the_way_out(monkeypatch):
    def unreachable(repo_id: str, allow_patterns: list[str]) -> str:
        raise LocalEntryNotFoundError("cannot find the requested files\nin the cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(OSError, match=r"owner/name.*cannot find the requested files.*pass its path as `weights`"):
        read_checkpoint("owner/name")


@pytest.mark.parametrize("source", ["./nowhere", "a/b/c", "/nowhere/at/all", "not a name", Path("nowhere")])
def test_a_source_that_is_neither_folder_nor_hub_id_is_not_found(source):
    with pytest.raises(FileNotFoundError, match="neither a folder nor a hub id"):
        read_checkpoint(source)


# Damaged checkpoints: what is done to a good folder, the error, and what its message must name


def edited(change: Callable[[dict[str, np.ndarray]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS_FILE)
        change(tensors)
        save_file(tensors, folder / WEIGHTS_FILE)

    return damage


def truncated(folder: Path) -> None:
    content = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(content[:-100])


def cut_in_header(folder: Path) -> None:
    content = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).write_bytes(content[:200])


def overlapping(folder: Path) -> None:
    """Two tensors on the same bytes, which the format forbids."""
    path = folder / WEIGHTS_FILE
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + size])
    alike = [name for name in header if name.endswith("norm1.norm_layer.weight")][:2]
    header[alike[0]]["data_offsets"] = header[alike[1]]["data_offsets"]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


def pickled(folder: Path) -> None:
    (folder / WEIGHTS_FILE).rename(folder / "diffusion_pytorch_model.bin")


def shard_without_index(folder: Path) -> None:
    (folder / WEIGHTS_FILE).rename(folder / "diffusion_pytorch_model-00001-of-00002.safetensors")


def two_variants(folder: Path) -> None:
    content = (folder / WEIGHTS_FILE).read_bytes()
    (folder / WEIGHTS_FILE).rename(folder / "diffusion_pytorch_model.fp16.safetensors")
    (folder / "diffusion_pytorch_model.bf16.safetensors").write_bytes(content)


def two_kinds_of_variant(folder: Path) -> None:
    two_variants(folder)
    (folder / "diffusion_pytorch_model.bf16.safetensors").rename(folder / f"{WEIGHTS_FILE}.index.bf16.json")


def other_class(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))


def sharded(change: Callable[[dict[str, str], Path], None]) -> Callable[[Path], None]:
    """Split the folder's tensors into two shards with an index, then change the index or the shards."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS_FILE)
        (folder / WEIGHTS_FILE).unlink()
        placed = {name: f"part-{name.split('.')[0]}.safetensors" for name in tensors}
        for shard in set(placed.values()):
            save_file({name: tensors[name] for name in tensors if placed[name] == shard}, folder / shard)
        change(placed, folder)
        (folder / f"{WEIGHTS_FILE}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))

    return damage


NORM = "encoder.norm_out.weight"
DAMAGES = {
    "no config": (lambda folder: (folder / "config.json").unlink(), FileNotFoundError, "config.json not found"),
    "config is no JSON": (lambda folder: (folder / "config.json").write_text("{"), ValueError, "not JSON"),
    "config of another class": (other_class, ValueError, "'AutoencoderKL', expected 'AutoencoderKLCogVideoX'"),
    "no weights": (lambda f: (f / WEIGHTS_FILE).unlink(), FileNotFoundError, "no weights: expected diffusion_pytorch"),
    "only pickle": (pickled, FileNotFoundError, "only pickled weights .diffusion_pytorch_model.bin.*unpickling"),
    "a shard without its index": (shard_without_index, FileNotFoundError, "no weights: expected.*00001-of-00002"),
    "two variants": (two_variants, ValueError, "several variants.*bf16.*fp16"),
    "a variant's file and another's index": (two_kinds_of_variant, ValueError, "several variants.*fp16.*index.bf16"),
    "truncated": (truncated, OSError, f"{WEIGHTS_FILE} is no whole safetensors file"),
    "cut in the header": (cut_in_header, OSError, f"{WEIGHTS_FILE} is no whole safetensors file"),
    "empty file": (lambda f: (f / WEIGHTS_FILE).write_bytes(b""), OSError, "no whole safetensors file"),
    "overlapping tensors": (overlapping, OSError, "no whole safetensors file"),
    "missing tensor": (edited(lambda t: t.pop(NORM)), ValueError, rf"missing {NORM}\b.*config\.json"),
    "extra tensor": (edited(lambda t: t.update({"more": t[NORM]})), ValueError, "not in this architecture: more"),
    "misshapen tensor": (
        edited(lambda t: t.update({NORM: np.zeros((24, 1), np.float32)})),
        ValueError,
        rf"{NORM} has shape \(24, 1\), expected \(24,\)",
    ),
    "integer tensor": (
        edited(lambda t: t.update({NORM: np.zeros(24, np.int32)})),
        ValueError,
        f"{NORM} in .* is I32, expected one of float64, float32, float16, bfloat16",
    ),
    "name twice": (
        edited(lambda t: t.update({f"_orig_mod.{NORM}": t[NORM]})),
        ValueError,
        f"{NORM} twice, with and without '_orig_mod.'",
    ),
    "shard missing": (
        sharded(lambda placed, folder: (folder / "part-decoder.safetensors").unlink()),
        FileNotFoundError,
        "index.json names the shard part-decoder.safetensors",
    ),
    "tensor not in its shard": (
        sharded(lambda placed, folder: placed.update({NORM: "part-decoder.safetensors"})),
        ValueError,
        f"part-decoder.safetensors and .*index.json disagree: absent from the shard {NORM}",
    ),
    "tensor not in the index": (
        sharded(lambda placed, folder: placed.pop(NORM)),
        ValueError,
        f"not in the index {NORM}",
    ),
    "shard outside the folder": (
        sharded(lambda placed, folder: placed.update({NORM: "../part-encoder.safetensors"})),
        ValueError,
        "in '../part-encoder.safetensors': expected a file name beside it",
    ),
    "index without a map": (
        lambda folder: (folder / f"{WEIGHTS_FILE}.index.json").write_text("[]"),
        OSError,
        "is no index of shards",
    ),
}


@pytest.mark.parametrize(("damage", "error", "message"), DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_an_error_that_says_what_is_wrong(damage, error, message, folder):
    read_checkpoint(folder)
    damage(folder)
    with pytest.raises(error, match=message):
        read_checkpoint(folder)


def test_a_missing_subfolder_is_named(folder):
    with pytest.raises(FileNotFoundError, match="no subfolder 'transformer'"):
        read_checkpoint(folder, "transformer")


# Writing


def test_an_error_while_writing_leaves_the_folder_as_it_was(folder, tensors, monkeypatch):
    def fail_half_way(tensors: dict[str, np.ndarray], path: Path, metadata: dict[str, str]) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("no space left on device")

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(checkpoint, "save_file", fail_half_way)
    with pytest.raises(OSError, match="no space"):
        write_checkpoint(folder, TINY, {name: tensor + 1 for name, tensor in tensors.items()})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_tensors_that_do_not_fit_are_not_written(tmp_path, tensors):
    with pytest.raises(ValueError, match=f"missing {NORM}"):
        write_checkpoint(tmp_path / "vae", TINY, {n: t for n, t in tensors.items() if n != NORM})
    assert not (tmp_path / "vae").exists()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_both_files_are_for_whom_the_umask_says(mask, tmp_path, tensors):
    before = os.umask(mask)
    try:
        write_checkpoint(tmp_path, TINY, tensors)
        write_checkpoint(tmp_path, TINY, tensors)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~mask}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_variant_in_shards_is_no_reason_not_to_write(folder, tensors):
    (folder / f"{WEIGHTS_FILE}.index.fp16.json").write_text("{}")
    changed = {name: tensor + 1 for name, tensor in tensors.items()}
    write_checkpoint(folder, TINY, changed)
    assert same_bits(read_checkpoint(folder)[1], changed)


def test_a_folder_that_diffusers_would_read_otherwise_is_not_written_to(folder, tensors):
    (folder / f"{WEIGHTS_FILE}.index.json").write_text("{}")
    with pytest.raises(OSError, match=r"sharded checkpoint.*name an empty folder"):
        write_checkpoint(folder, TINY, tensors)


def test_a_file_in_place_of_the_folder_is_named(tmp_path, tensors):
    (tmp_path / "vae").write_text("")
    with pytest.raises(OSError, match="vae is a file"):
        write_checkpoint(tmp_path / "vae", TINY, tensors)


def test_check_tensors_names_a_tensor_that_is_no_float(tensors):
    with pytest.raises(ValueError, match=f"{NORM} is int8, expected one of"):
        check_tensors(tensor_shapes(TINY), tensors | {NORM: np.zeros(24, np.int8)}, "it", "")


# Fingerprints


def test_a_change_of_any_tensor_changes_the_fingerprint(tensors):
    print_of_all = fingerprint(tensors)
    changed = {fingerprint(tensors | {name: tensor + 1}) for name, tensor in tensors.items()}
    assert len(changed - {print_of_all}) == len(tensors)


def test_the_fingerprint_sees_every_byte_of_a_small_tensor_and_any_of_a_large_one():
    for size, places in ((100, range(100)), (100_000, (0, 20_000, 50_000, 77_777, 99_999))):
        prints = set()
        for place in places:
            tensor = np.zeros(size, np.float32)
            tensor[place] = 1
            prints.add(fingerprint({"x": tensor}))
        assert len(prints) == len(places)


def test_the_fingerprint_sees_names_shapes_and_dtypes_but_not_order_or_memory(tensors):
    ones = np.ones((2, 8), np.float32)
    variants = [{"x": ones}, {"y": ones}, {"x": ones.reshape(8, 2)}, {"x": ones.view(np.int32)}]
    assert len({fingerprint(variant) for variant in variants}) == len(variants)
    assert fingerprint(dict(reversed(tensors.items()))) == fingerprint(tensors)
    assert fingerprint({n: np.asfortranarray(t) for n, t in tensors.items()}) == fingerprint(tensors)
