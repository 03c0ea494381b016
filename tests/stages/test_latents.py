"""Latents to decode: ours and anyone's, in any layout, and nothing that is guessed."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import save_file

from stages.files import read, write
from stages.latents import latents_of
from stages.model import Model

RAW = np.random.default_rng(0).standard_normal((1, 3, 2, 5, 4)).astype(np.float32)  # b t h w c


@pytest.fixture
def anyones(tmp_path):
    """`anyones(array)`: a safetensors file of anyone's."""

    def save(array, metadata=None):
        save_file({"latents": np.ascontiguousarray(array)}, tmp_path / "theirs.safetensors", metadata)
        return tmp_path / "theirs.safetensors"

    return save


@pytest.mark.parametrize("layout", ["btchw", "bcthw", "bthwc"])
@pytest.mark.parametrize("scaled", [True, False])
def test_latents_of_any_layout_scaled_or_raw_come_to_the_same(layout, scaled, anyones, model):
    factor = model.vae_config().scaling_factor if scaled else 1
    array = (RAW * factor).transpose(["bthwc".index(axis) for axis in layout])
    given = latents_of(anyones(array), model, layout=layout, scaled=scaled)
    np.testing.assert_allclose(given.latents, RAW, rtol=1e-6)
    assert (given.fps, given.drop) == (8, 0)
    told = latents_of(anyones(array, {"layout": layout, "scaled": str(scaled).lower()}), model)
    np.testing.assert_array_equal(told.latents, given.latents)


def test_latents_are_dropped_at_the_front(anyones, model):
    given = latents_of(anyones(RAW), model, layout="bthwc", scaled=False, drop=1)
    np.testing.assert_array_equal(given.latents, RAW[:, 1:])


def test_an_array_of_numpy_s_is_read(tmp_path, model):
    np.save(tmp_path / "x.npy", RAW)
    np.testing.assert_array_equal(latents_of(tmp_path / "x.npy", model, layout="bthwc", scaled=False).latents, RAW)


SAID = {"layout": "bthwc", "scaled": False}
REFUSED = {
    "no layout": (RAW, {"scaled": True}, r"does not say its layout \(shape \(1, 3, 2, 5, 4\)\): say .* --layout"),
    "no scale": (RAW, {"layout": "bthwc"}, "does not say whether it is scaled"),
    "another layout": (RAW, SAID | {"layout": "tbhwc"}, "layout 'tbhwc', expected one of btchw"),
    "channels elsewhere": (RAW, SAID | {"layout": "btchw"}, "expected the axes btchw, 4 of them channels"),
    "four axes": (RAW[0], SAID, r"has shape \(3, 2, 5, 4\)"),
    "two clips": (np.concatenate([RAW, RAW]), SAID, "holds 2 clips: save them apart"),
    "whole numbers": (RAW.astype(np.int32), SAID, "holds int32: expected floats"),
    "all dropped": (RAW, SAID | {"drop": 3}, "has 3 latents in time, and 3 are to be dropped"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_latents_of_which_something_is_not_said_or_wrong_are_refused(case, anyones, model):
    array, said, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        latents_of(anyones(array), model, **said)


def test_pickled_latents_are_refused_with_what_to_do(tmp_path, model):
    with pytest.raises(ValueError, match=r"is pickled.*safetensors.torch.save_file"):
        latents_of(tmp_path / "x.pt", model)


def test_extra_latents_of_a_model_with_patches_in_time_have_to_be_said(anyones, other):
    config = other / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"patch_size_t": 2}))
    model = Model(other)
    with pytest.raises(ValueError, match=r"does not say how many latents to drop.*CogVideoX1.5's may have extra"):
        latents_of(anyones(RAW), model, **SAID)
    assert latents_of(anyones(RAW), model, **SAID, drop=0).fps == 16


def test_a_vae_alone_needs_the_rate_and_what_to_drop(anyones, other):
    shutil.rmtree(other / "transformer")
    model = Model(other)
    with pytest.raises(ValueError, match=r"how many latents to drop.*has no transformer"):
        latents_of(anyones(RAW), model, **SAID)
    with pytest.raises(ValueError, match=r"does not say its rate.*give --fps"):
        latents_of(anyones(RAW), model, **SAID, drop=0)
    assert latents_of(anyones(RAW), model, **SAID, drop=0, fps=5).fps == 5


def test_ours_are_not_contradicted(run, model):
    path = run / "latents.safetensors"
    assert latents_of(path, model, layout="bthwc").made is not None
    for said in ({"layout": "btchw"}, {"scaled": False}, {"drop": 1}):
        with pytest.raises(ValueError, match=r"says of itself .*: leave --"):
            latents_of(path, model, **said)


@pytest.mark.parametrize("part", ["transformer", "text_encoder", "vae"])
def test_latents_of_another_model_are_refused(part, run, other):
    config = other / part / "config.json"
    change = {"scaling_factor": 0.7} if part == "vae" else {"of": "another"}
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    named = "its VAE has another config" if part == "vae" else f"another {part}"
    with pytest.raises(ValueError, match=f"is of another model: .*{named}"):
        latents_of(run / "latents.safetensors", Model(other))


def test_latents_of_another_text_than_the_one_beside_them_are_refused(run, model):
    tensors, made = read(run / "text.safetensors", "text")
    write(run / "text.safetensors", tensors, made.recipe.model_copy(update={"prompt": "another"}))
    with pytest.raises(ValueError, match=r"made of another text.safetensors .*here 'another'.*run `twinvae denoise`"):
        latents_of(run / "latents.safetensors", model)
