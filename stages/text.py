"""Text: prompts to T5's embeddings, `text.safetensors`."""

from __future__ import annotations

import time
import warnings
from pathlib import Path

import numpy as np
from rich.console import Console

from impl_torchax.text_encoder import MAX_TOKENS, load_text_encoder, tokenize
from stages.files import TEXT, Text, reason, write
from stages.model import Model, usual_dtype
from stages.telling import QUIET, say


def text(
    folder: Path,
    model: Model,
    prompt: str,
    negative_prompt: str = "",
    *,
    tokens: int | None = None,
    dtype: str | None = None,
    console: Console = QUIET,
) -> Path:
    """Encode a prompt, and what guidance is to lead away from.

    Args:
        folder: of the run.
        tokens: that a prompt is filled up or cut to; None: as many as the model's transformer takes.
        dtype: in which T5 computes; None: float32 on a CPU, bfloat16 elsewhere.
    Raises:
        ValueError: a prompt that is empty or no text.
        FileNotFoundError, OSError: a model without these parts, or a folder that cannot be written.
    """
    path = folder / TEXT
    _check(prompt, "prompt")
    _check(negative_prompt, "negative prompt", empty=True)
    most = model.config("transformer")["max_text_seq_length"] if model.has("transformer") else MAX_TOKENS
    tokens = tokens or int(most)
    recipe = Text(
        model=model.name, parts=model.digests("tokenizer", "text_encoder"), prompt=prompt,
        negative_prompt=negative_prompt, tokens=tokens, dtype=dtype or usual_dtype(),
    )  # fmt: skip
    why = reason(path, "text", recipe)
    if not why:
        say(console, f"text: {path} is of this prompt, this model and these settings: kept")
        return path
    say(console, f"text: {why}")
    began = time.monotonic()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        ids = tokenize(model.part("tokenizer"), [prompt, negative_prompt], tokens)
    cut = [str(warning.message) for warning in warned if "was cut" in str(warning.message)]
    for line in cut:
        say(console, f"text: {line}")
    encoder = load_text_encoder(model.part("text_encoder"), dtype=recipe.dtype)
    found = np.asarray(encoder(ids))
    seconds = time.monotonic() - began
    write(path, {"prompt": found[:1], "negative_prompt": found[1:]}, recipe,
          facts={"seconds": round(seconds, 2), **({"cut": cut} if cut else {})})  # fmt: skip
    say(console, f"text: wrote {path}, 2 prompts of {tokens} tokens, in {seconds:.1f} s")
    return path


def _check(prompt: object, what: str, empty: bool = False) -> None:
    if not isinstance(prompt, str):
        raise ValueError(f"the {what} is a {type(prompt).__name__}: expected text")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the {what} {prompt!r:.80} is no text: expected UTF-8") from None
    if not empty and not prompt.strip():
        raise ValueError("the prompt is empty: say what the video is to show")
