"""The files between stages: what they say, that they are whole or not at all, and what is refused of them."""

from __future__ import annotations

import errno
import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stages import files
from stages.files import KEY, Latents, differences, read, reason, whole, write
from tests.stages.conftest import RECIPE


def metadata(path) -> dict:
    return json.loads(files.read_any(path, "")[1][KEY])


def rewritten(path, tensors=None, **fields) -> None:
    """The file with other tensors, or with other fields of its metadata, as an editor leaves it."""
    said = metadata(path)
    for name, value in fields.items():
        *above, last = name.split("__")
        place = said
        for part in above:
            place = place[part]
        place[last] = value
    save_file(tensors or load_file(path), path, {KEY: json.dumps(said)})


def test_a_file_comes_back_with_what_it_was_made_of(tmp_path):
    about = Latents(layout="bthwc", scaled=True, drop=1, fps=16, steps=3)
    tensors = {"latents": np.ones((1, 2, 3), np.float32).transpose(2, 1, 0)}
    made = write(tmp_path / "x.safetensors", tensors, RECIPE, about, {"seconds": 1.0})
    found, again = read(tmp_path / "x.safetensors", "text")
    np.testing.assert_array_equal(found["latents"], tensors["latents"])
    assert again == made
    assert again.latents == about
    assert "jax" in again.versions


def test_what_a_recipe_has_no_longer_is_a_difference_as_what_it_has_now():
    more = RECIPE.model_copy(update={"parts": RECIPE.parts | {"text_encoder": "2"}})
    assert differences(more, RECIPE) == ["parts text_encoder was '2' and is None"]
    assert differences(RECIPE, more) == ["parts text_encoder was None and is '2'"]
    assert differences(more, more) == []


def test_the_digest_of_a_file_is_the_same_when_the_same_is_made_again_and_another_when_anything_differs(tmp_path):
    tensors = {"a": np.zeros(3, np.float32)}
    path = tmp_path / "x.safetensors"
    first = write(path, tensors, RECIPE, facts={"seconds": 1}).content
    assert write(path, tensors, RECIPE, facts={"seconds": 2}).content == first
    others = [({"a": np.array([0, 0, 1e-30], np.float32)}, RECIPE), ({"b": tensors["a"]}, RECIPE),
              ({"a": np.zeros((3, 1), np.float32)}, RECIPE),
              (tensors, RECIPE.model_copy(update={"prompt": "q"}))]  # fmt: skip
    assert len({write(path, *other).content for other in others} | {first}) == 5


REFUSED = {
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-4]), OSError, "no whole safetensors file"),
    "empty": (lambda path: path.write_bytes(b""), OSError, "no whole safetensors file"),
    "another tensor": (
        lambda path: rewritten(path, {"prompt": np.zeros((2, 3), np.float32)}),
        ValueError,
        "was edited",
    ),
    "another prompt": (lambda path: rewritten(path, recipe__prompt="q"), ValueError, "was edited"),
    "another schema": (lambda path: rewritten(path, schema_version=2), ValueError, "schema version 2.* reads 1: make"),
    "a field unknown": (lambda path: rewritten(path, more=1), ValueError, "more: Extra inputs"),
    "no metadata": (lambda path: save_file(load_file(path), path), ValueError, "not made by `twinvae text`"),
    "gone": (lambda path: path.unlink(), FileNotFoundError, "not found: `twinvae text` makes it"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_not_as_it_was_written_is_refused_and_made_again(case, small):
    spoil, error, message = REFUSED[case]
    spoil(small)
    with pytest.raises(error, match=message):
        read(small, "text")
    assert reason(small, "text", RECIPE)


def test_a_file_of_another_stage_is_refused(small):
    with pytest.raises(ValueError, match="was made by `twinvae text`, expected `twinvae denoise`"):
        read(small, "denoise")


def test_a_stage_runs_again_only_where_a_setting_differs_and_says_which(small):
    assert reason(small, "text", RECIPE) == ""
    assert reason(small, "text", RECIPE.model_copy(update={"model": "another name of the folder"})) == ""
    found = reason(small, "text", RECIPE.model_copy(update={"prompt": "q", "parts": {"tokenizer": "2"}}))
    assert found == "parts tokenizer was '1' and is '2'; prompt was 'p' and is 'q'"
    assert differences(RECIPE, RECIPE) == []


def test_an_error_while_writing_leaves_what_was_there_and_nothing_beside_it(small, monkeypatch):
    before = small.read_bytes()

    def interrupted() -> None:
        with whole(small) as beside:
            beside.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(OSError, match=r"cannot write .*No space left on device\): make room on that disk"):
        write(small, {"prompt": np.zeros(1)}, RECIPE)
    assert small.read_bytes() == before
    assert [path.name for path in small.parent.iterdir()] == [small.name]
