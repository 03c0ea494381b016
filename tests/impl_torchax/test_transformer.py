"""CogVideoX's transformer through TorchAx: diffusers' numbers, from any checkpoint, on one device and on many."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch

from impl_torchax.transformer import Network, load_transformer
from tests.impl_torchax import on_mesh, tiny
from twinvae.bench.effort import quick_environment
from twinvae.checkpoint import StoredTensor

ROOT = Path(__file__).parents[2]
# Rotary models are rotated in float32 whatever the dtype, where XLA's last bit differs from PyTorch's.
FLOAT64 = {"2b": 1e-12}
ROTATED = 5e-8
DEVICES = 8


def predicted(kind: str, dtype: str) -> np.ndarray:
    latents, text = tiny.inputs(kind)
    found = load_transformer(tiny.transformer(kind, dtype), dtype=dtype)(latents, text, tiny.TIMESTEPS)
    assert str(found.dtype) == dtype
    return np.asarray(found).astype(np.float64)


def relative(found: np.ndarray, want: np.ndarray) -> float:
    return np.abs(found - want).max() / np.abs(want).max()


@pytest.mark.parametrize("kind", tiny.CONFIGS)
def test_in_float64_it_is_what_diffusers_computes_on_torch(kind):
    assert relative(predicted(kind, "float64"), tiny.reference(kind, "float64")) <= FLOAT64.get(kind, ROTATED)


@pytest.mark.parametrize(
    ("kind", "dtype", "over"), [("2b", "float32", 1.5), ("1.5", "float32", 1.5), ("5b", "bfloat16", 1.25)]
)
def test_in_fewer_bits_it_errs_about_as_much_as_torch_does(kind, dtype, over):
    exact = tiny.reference(kind, "float64")
    own, found = (np.abs(each - exact).max() for each in (tiny.reference(kind, dtype), predicted(kind, dtype)))
    assert found <= over * own


def test_latents_of_any_size_have_diffusers_positions():
    sizes = {"sample_width": 20, "sample_height": 6}  # which are not those of the latents
    model = tiny.transformer("2b", "float64", **sizes)
    latents, text = tiny.inputs("2b")
    with mock.patch.dict(tiny.CONFIGS, {"2b": tiny.SINCOS | sizes}):
        want = tiny.reference("2b", "float64", **sizes)
    assert relative(np.asarray(load_transformer(model, dtype="float64")(latents, text, tiny.TIMESTEPS)), want) <= 1e-12


def test_blocks_are_one_loop_however_many_there_are():
    def program(layers: int) -> str:
        network = Network(tiny.CONFIGS["2b"] | {"num_layers": layers})
        params = {name: jax.ShapeDtypeStruct(weight.shape, "float32") for name, weight in network.weights.items()}
        latents, text = (jax.ShapeDtypeStruct(x.shape, "float32") for x in tiny.inputs("2b"))
        table, sinusoids = network.positions(latents.shape), network.sinusoids(tiny.TIMESTEPS)
        return jax.jit(network.predict).lower(params, latents, text, sinusoids, table).as_text()

    few, many = program(2), program(5)
    assert len(few.splitlines()) == len(many.splitlines())


def test_a_program_is_made_once_for_the_same_arguments_and_is_another_for_others():
    made = load_transformer(tiny.transformer("2b", "float32"), dtype="float32")

    def function(predict, x, **static):
        return x

    one, again, other = (made.program(function, guided=guided) for guided in (True, True, False))
    assert one is again is not other


# Weights


def folder_of(path: Path, **options) -> Path:
    tiny.transformer("2b", "float32").save_pretrained(path, **options)
    return path


def same(found, want) -> None:
    assert found.keys() == want.keys()
    for name in want:
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(want[name]), err_msg=name)


@pytest.fixture(scope="module")
def from_module():
    return load_transformer(tiny.transformer("2b", "float32"), dtype="bfloat16")


@pytest.mark.parametrize("options", [{}, {"max_shard_size": "20KB"}], ids=["one file", "shards"])
def test_a_folder_holds_the_weights_of_its_module(options, tmp_path, from_module):
    found = load_transformer(folder_of(tmp_path, **options), dtype="bfloat16")
    assert len(list(tmp_path.glob("*.safetensors"))) > len(options)
    same(found.params, from_module.params)
    assert found.config == from_module.config


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_weights_of_any_float_dtype_are_taken_as_what_is_asked_for(dtype, tmp_path):
    model = tiny.seeded(type(tiny.transformer("2b"))(**tiny.SINCOS), dtype)
    model.save_pretrained(tmp_path)
    found = load_transformer(tmp_path, dtype="float32").params["proj_out.weight"]
    np.testing.assert_array_equal(found, model.proj_out.weight.detach().float().numpy())


def test_blocks_weights_are_stacked_in_their_order(from_module):
    stacked = from_module.params["transformer_blocks.attn1.to_q.weight"]
    for number, block in enumerate(tiny.transformer("2b", "float32").transformer_blocks):
        want = block.attn1.to_q.weight.detach().numpy().astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(stacked[number], want)


def test_a_host_reads_a_weight_at_a_time(tmp_path):
    held, most = [], []

    def read(stored: StoredTensor, index) -> np.ndarray:
        held.append(np.prod(stored.shape))
        return original(stored, index)

    def ready(*arguments):
        made = make(*arguments)
        most.append(sum(held))
        held.clear()
        return made

    original, make = StoredTensor.__getitem__, jax.make_array_from_callback
    with (
        mock.patch.object(StoredTensor, "__getitem__", read),
        mock.patch.object(jax, "make_array_from_callback", ready),
    ):
        loaded = load_transformer(folder_of(tmp_path), dtype="float32")
    assert most == [weight.size for weight in loaded.params.values()]


def test_weights_that_do_not_fit_are_refused(tmp_path):
    folder_of(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_layers": 3, "time_embed_dim": 8}))
    with pytest.raises(
        ValueError, match=r"do not fit the config .*missing transformer_blocks\.2.*has shape .*expected"
    ):
        load_transformer(tmp_path)


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        (None, FileNotFoundError, "config.json not found: expected a local folder"),
        ("{", ValueError, "is not JSON"),
        ('{"_class_name": "UNet"}', ValueError, "config of UNet: expected CogVideoXTransformer3DModel"),
        ('{"_class_name": "CogVideoXTransformer3DModel"}', FileNotFoundError, "holds no weights"),
    ],
)
def test_a_folder_without_the_model_is_refused(content, error, words, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(error, match=words):
        load_transformer(tmp_path)


@pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [
        ("2b", (1, 3, 7, 12, 4), "3 frames, 7x12: .*take 3 frames, 8x12"),
        ("1.5", (1, 3, 8, 12, 4), "patches of 2 frames, 2x2; take 4 frames"),
        ("5b from images", (1, 3, 8, 14, 8), "has learned where tokens are at 8x12 alone"),
    ],
)
def test_latents_that_do_not_divide_are_refused_with_the_nearest_that_do(kind, shape, words):
    with pytest.raises(ValueError, match=words):
        Network(tiny.CONFIGS[kind]).positions(shape)


def test_an_unknown_dtype_or_another_mesh_is_refused():
    with pytest.raises(ValueError, match="unknown dtype 'float16'"):
        load_transformer(tiny.transformer("2b"), dtype="float16")
    with pytest.raises(ValueError, match="axes 'clips': expected 'dp', 'sp', 'tp'"):
        load_transformer(tiny.transformer("2b"), mesh=jax.make_mesh((1,), ("clips",)))


def test_what_is_traced_leaves_torch_s_module_as_it_was():
    network = Network(tiny.CONFIGS["5b"])
    block, _ = network.module.transformer_blocks[0]._inner
    before = block.attn1.processor
    latents, text = (jnp.asarray(x, jnp.float32) for x in tiny.inputs("5b"))
    with pytest.raises(RuntimeError, match="proj"):
        network.predict({}, latents, text, network.sinusoids(tiny.TIMESTEPS), network.positions(latents.shape))
    assert block.attn1.processor is before
    assert not any(isinstance(p, jax.Array) for p in torch.nn.Module.parameters(network.module))


# Many devices


@pytest.fixture(scope="module")
def on_meshes():
    """What a process of 8 virtual devices says."""
    environment = os.environ | quick_environment() | {"JAX_PLATFORMS": "cpu"}
    environment["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={DEVICES}"
    command = [sys.executable, "-m", on_mesh.__name__]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", on_mesh.MESHES)
def test_a_mesh_computes_what_one_device_does(name, on_meshes):
    assert on_meshes[name]["error"] <= 1e-12 * on_meshes[name]["size"]


@pytest.mark.parametrize("name", on_mesh.MESHES)
def test_each_device_holds_and_reads_its_share_of_the_weights(name, on_meshes):
    assert on_meshes[name]["held"] == 1 / DEVICES
    assert on_meshes[name]["read"] == 1


def test_tokens_are_sent_in_the_model_s_dtype(on_meshes):
    assert on_meshes["sent in bfloat16"] == ["bf16"]


def test_a_text_encoder_on_a_mesh_computes_what_it_does_on_one_device(on_meshes):
    assert on_meshes["text encoder"] <= 1e-5
