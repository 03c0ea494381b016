"""What is wrong with a saved folder is named, and nothing of one that diffusers reads back."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import twinvae
from twinvae.bench.diagnosis.saved import faults, of_saved
from twinvae.checkpoint import CONFIG_FILE, WEIGHTS_FILE, write_checkpoint
from twinvae.port.errors import PortRaised
from twinvae.seeded import seeded_tensors

CONFIG = twinvae.PRESETS["tiny"]
GIVEN = seeded_tensors(CONFIG, 0)
FIRST, LAST = "encoder.conv_in.conv.weight", "decoder.conv_out.conv.bias"
KERNELS = sum(tensor.ndim == 5 for tensor in GIVEN.values())


def each(change):
    return lambda tensors: {name: np.ascontiguousarray(change(tensor)) for name, tensor in tensors.items()}


def of_kernels(change):
    return each(lambda tensor: change(tensor) if tensor.ndim == 5 else tensor)


def one(change):
    return lambda tensors: tensors | {FIRST: np.ascontiguousarray(change(tensors[FIRST]))}


ORDER = "with the axes in the order"
WRONG = {
    "right": (lambda tensors: tensors, {}),
    "other names": (
        lambda tensors: {f"vae.{name}": tensor for name, tensor in tensors.items()},
        {"names": f"{len(GIVEN)} tensors saved by other names, vae."}),
    "one missing": (
        lambda tensors: {name: tensors[name] for name in tensors if name != LAST},
        {"names": f"1 tensor of {len(GIVEN)} not saved: {LAST}."}),
    "transposed": (
        of_kernels(lambda kernel: kernel.transpose(2, 3, 4, 1, 0)),
        {"axes": f"{KERNELS} tensors of {len(GIVEN)} saved {ORDER} (2, 3, 4, 1, 0) of diffusers'"}),
    "height for width": (one(lambda kernel: kernel.swapaxes(3, 4)), {"axes": f"{ORDER} (0, 1, 2, 4, 3)"}),
    "half the bits": (each(lambda tensor: tensor.astype(np.float16)), {"dtype": "in float16, where the model"}),
    "rounded": (
        each(lambda tensor: tensor.astype(ml_dtypes.bfloat16).astype(np.float32)), {"rounding": "rounded to bfloat16"}),
    "rounded and transposed": (
        one(lambda kernel: kernel.astype(np.float16).astype(np.float32).transpose(1, 0, 2, 3, 4)),
        {"rounding": "rounded to float16", "axes": f"{ORDER} (1, 0, 2, 3, 4)"}),
    "another shape": (one(lambda kernel: kernel[:, :, :2]), {"shape": "in another shape, "}),
    "other values": (one(lambda kernel: kernel + 0.25), {"values": "with other values, off by up to 0.25"}),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_the_tensors_is_named_alone(case, tmp_path):
    change, expected = WRONG[case]
    write_checkpoint(tmp_path, CONFIG, GIVEN)
    save_file(change(GIVEN), tmp_path / WEIGHTS_FILE, metadata={"format": "pt"})
    found = faults(tmp_path, CONFIG, GIVEN)
    assert {cause.partition(":")[0] for cause in found} == expected.keys()
    for words in expected.values():
        assert any(words in sentence for sentence in found.values()), found


def test_what_is_wrong_beside_the_tensors_is_named(tmp_path):
    config = CONFIG.to_dict()
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config | {"scaling_factor": 1.0}))
    save_file(GIVEN, tmp_path / WEIGHTS_FILE)
    found = faults(tmp_path, CONFIG, GIVEN)
    assert (
        found["config"]
        == f"config.json says otherwise than the model: scaling_factor is 1.0 for {CONFIG.scaling_factor}."
    )
    assert "no metadata format=pt" in found["metadata"]
    (tmp_path / WEIGHTS_FILE).rename(tmp_path / "model.safetensors")
    (tmp_path / CONFIG_FILE).unlink()
    found = faults(tmp_path, CONFIG, GIVEN)
    assert set(found) == {"config", "weights"}
    assert "model.safetensors" in found["weights"]


def test_a_port_that_saves_is_held_to_what_it_was_built_of_in_its_dtype_and_one_that_raises_is_said_to():
    class Saving:
        config, dtype = CONFIG, "bfloat16"

        def save_pretrained(self, folder):
            write_checkpoint(folder, CONFIG, GIVEN)

    (finding,) = of_saved(Saving(), GIVEN)
    assert (finding.cause, finding.about) == (
        "saved folder: dtype: in float32, where the model computes in bfloat16", "checkpoint")  # fmt: skip

    class Raising(Saving):
        def save_pretrained(self, folder):
            raise PortRaised("save_pretrained raised OSError: no room")

    (finding,) = of_saved(Raising(), GIVEN)
    assert finding.headline == "save_pretrained raised OSError: no room."
