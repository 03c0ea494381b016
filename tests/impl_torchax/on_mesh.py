"""A process of 8 virtual devices that predicts with tiny transformers on meshes, and says how far off one device it is.

Run by `test_transformer.py`, which reads what it prints.
"""

from __future__ import annotations

import json
import re
from typing import Any
from unittest import mock

import jax
import numpy as np

from impl_torchax.text_encoder import load_text_encoder
from impl_torchax.transformer import load_transformer
from impl_torchax.weights import ModuleTensor
from tests.impl_torchax import tiny
from twinvae.bench.effort import little_effort
from twinvae.jax.tokens import make_token_mesh

# (dp, sp, tp), the kind, what differs of it, and clips. Neither 3 heads nor one clip divide by 2, nor the 60 tokens of
# a video by 8.
MESHES: dict[str, tuple[tuple[int, int, int], str, dict[str, Any], int]] = {
    "2b of 3 heads on 1x4x2": ((1, 4, 2), "2b", {"num_attention_heads": 3}, 2),
    "5b on 1x2x4": ((1, 2, 4), "5b", {}, 2),
    "1.5, one clip, on 2x2x2": ((2, 2, 2), "1.5", {}, 1),
}
WIDTH = 10  # of latents


def told(name: str) -> dict[str, float]:
    counts, kind, fields, batch = MESHES[name]
    latents, text = tiny.inputs(kind, batch)
    latents = latents[:, :, :, :WIDTH]
    model = tiny.transformer(kind, "float64", **fields)
    read: list[int] = []

    def counted(tensor: ModuleTensor, index: Any) -> np.ndarray:
        part = original(tensor, index)
        read.append(part.nbytes)
        return part

    alone, original = load_transformer(model, dtype="float64"), ModuleTensor.__getitem__
    with mock.patch.object(ModuleTensor, "__getitem__", counted):
        on_mesh = load_transformer(model, dtype="float64", mesh=make_token_mesh(*counts))
    one, many = (np.asarray(each(latents, text, tiny.TIMESTEPS[:batch])) for each in (alone, on_mesh))
    held = sum(weight.addressable_shards[0].data.nbytes for weight in on_mesh.params.values())
    whole = sum(weight.nbytes for weight in on_mesh.params.values())
    return {
        "error": np.abs(one - many).max(),
        "size": np.abs(one).max(),
        "held": held / whole,
        "read": sum(read) / whole,
    }


def text_encoder_told() -> float:
    """How far a text encoder on a mesh is from one device, over the size of what it gives."""
    tokens, mesh = np.arange(14).reshape(2, 7), make_token_mesh(2, 2, 2)
    one, many = (
        np.asarray(load_text_encoder(tiny.text_encoder("float32"), dtype="float32", mesh=on)(tokens))
        for on in (None, mesh)
    )
    return float(np.abs(one - many).max() / np.abs(one).max())


def dtypes_sent(dtype: str) -> list[str]:
    """The dtypes of what tokens' devices send each other in attention, as the program is written."""
    mesh = make_token_mesh(1, 2, 4)
    made = load_transformer(tiny.transformer("5b", dtype), dtype=dtype, mesh=mesh)
    latents, text = (jax.numpy.asarray(each, dtype) for each in tiny.inputs("5b"))
    sinusoids = made.sinusoids(np.asarray(tiny.TIMESTEPS))
    program = jax.jit(made.network.predict).lower(made.params, latents, text, sinusoids, made.positions(latents.shape))
    sends = (line for line in program.as_text().splitlines() if "stablehlo.all_to_all" in line)
    return sorted({re.findall(r"x([a-z]+\d+)>", line)[-1] for line in sends})


def main() -> None:
    jax.config.update("jax_platforms", "cpu")
    with little_effort():
        found = {name: told(name) for name in MESHES}
        alone = {"text encoder": text_encoder_told(), "sent in bfloat16": dtypes_sent("bfloat16")}
        print(json.dumps(found | alone))


if __name__ == "__main__":
    main()
