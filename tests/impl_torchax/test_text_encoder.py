"""The text encoder through TorchAx: transformers' numbers; prompts as tokens, from a local folder."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from impl_torchax.text_encoder import load_text_encoder, tokenize
from tests.impl_torchax import tiny

WORDS = ["<pad>", "</s>", "<unk>", "a", "panda", "plays", "the", "guitar"]
TOKENS = np.random.default_rng(0).integers(0, 64, (2, 226))


def on_torch(dtype: str) -> np.ndarray:
    with torch.no_grad():
        return tiny.text_encoder(dtype)(torch.from_numpy(TOKENS))[0].double().numpy()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The least that has what T5's has: words, an end, and something to fill up with."""
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


def test_in_float32_it_errs_no_more_than_torch_does():
    exact = on_torch("float64")
    own = np.abs(on_torch("float32") - exact).max()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = np.asarray(load_text_encoder(tiny.text_encoder("float32"), dtype="float32")(TOKENS))
    assert np.abs(found - exact).max() <= 1.2 * own


@pytest.mark.parametrize("held", ["shared.weight", "encoder.embed_tokens.weight", "both"])
def test_a_folder_holds_the_weights_of_its_module_whichever_of_two_names_they_have(held, tmp_path):
    tiny.text_encoder("float32").save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    shared = tensors.pop("shared.weight")
    names = ("shared.weight", "encoder.embed_tokens.weight") if held == "both" else (held,)
    save_file(tensors | dict.fromkeys(names, shared), path)
    want, found = (
        load_text_encoder(tiny.text_encoder("float32"), dtype="float32"),
        load_text_encoder(tmp_path, dtype="float32"),
    )
    assert found.params.keys() == want.params.keys()
    assert all(np.array_equal(found.params[name], want.params[name]) for name in want.params)


def test_blocks_are_one_loop_however_many_there_are():
    def program(layers: int) -> str:
        made = load_text_encoder(tiny.text_encoder("float32", layers), dtype="float32")
        return made.encode.lower(made.params, TOKENS).as_text()

    assert len({len(program(layers).splitlines()) for layers in (1, 2, 4)}) == 1


def test_tokens_that_the_model_does_not_have_are_refused():
    found = load_text_encoder(tiny.text_encoder("float32"), dtype="float32")
    with pytest.raises(ValueError, match=r"from 0 to 64: expected .* from 0 to 63; take the tokenizer of this model"):
        found(np.array([[0, 64]]))


def test_prompts_become_tokens_that_are_filled_up(tokenizer):
    found = tokenize(tokenizer, ["a panda plays the guitar", "the drums", ""], max_length=7)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, [[3, 4, 5, 6, 7, 1, 0], [6, 2, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]])
    assert tokenize(tokenizer, "a panda").shape == (1, 226)


def test_a_prompt_that_is_too_long_is_cut_and_what_is_lost_is_said(tokenizer):
    with pytest.warns(UserWarning, match=r"6 tokens was cut to 4, .*lost is 'the guitar' of 'a panda"):
        found = tokenize(tokenizer, "a panda plays the guitar", max_length=4)
    np.testing.assert_array_equal(found, [[3, 4, 5, 1]])


def test_what_is_no_text_and_a_folder_without_a_tokenizer_are_refused(tokenizer, tmp_path):
    with pytest.raises(TypeError, match="a prompt of type int: expected text"):
        tokenize(tokenizer, ["a panda", 3])
    with pytest.raises(FileNotFoundError, match=r"holds no tokenizer .*copy the folder tokenizer"):
        tokenize(tmp_path, "a panda")
