"""Settings as a space: factors and their values, rows that hold every pair of values, and one row on either side.

`settings.jsonl` holds the rows: a covering array of `FACTORS` (`python -m suites.parity.settings` draws it again), then
what `nox -s explore` has found. One side is diffusers' own class, called directly: nothing of this project checks,
converts or loads what goes into it.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX

import twinvae
from twinvae.arrays import DTYPES, dtype_scope
from twinvae.bench.halves import stream
from twinvae.bench.torch_bfloat16 import ProductsInFloat32

Row = dict[str, Any]
ROWS = Path(__file__).with_name("settings.jsonl")

FACTORS: dict[str, tuple[Any, ...]] = {
    # A form is that of a half, so that each form of each half meets every value of the others.
    "asked": ("encode", "encode in row slabs", "decode", "decode in row slabs", "decode in column slabs"),
    "way": ("call", "stream", "one program", "adapter"),
    "dtype": ("float64", "float32", "bfloat16"),
    "mode": ("jit", "eager"),
    "batch": (1, 2, 3),
    "together": ((8, 2), (3, 1), (4, 3)),  # frames, and latents, that go through together
    "frames": ((0, 1), (2, 1), (3, 0)),  # so many times those, and so many more, but at least one
    "size": ((1, 2), (4, 2), (2, 4)),  # latent cells; a video's sides are no multiples of them
    "tiling": ("none", "no overlap", "blended", "uneven"),
    "slicing": (False, True),
    "kind": ("view", "jax", "torch"),
    "values": ("unit", "wide", "offset"),
    "ratio": (1, 2, 4, 8),
    "quant": ("none", "both"),
    "activation": ("silu", "mish", "gelu", "relu"),
    "groups": (1, 2, 4),
    "eps": (1e-6, 1e-2),
}
SLABS = tuple(name for name in FACTORS["asked"] if "slabs" in name)
# What has no meaning together, or costs most and is made of parts that other rows hold: some values of a factor ask
# another factor for one of some values. Op by op, and in slabs, a network takes seconds to trace and to compile.
ASKS: tuple[tuple[str, tuple[Any, ...], str, tuple[Any, ...]], ...] = (
    ("way", ("stream", "one program"), "frames", ((2, 1), (3, 0))),
    ("way", ("one program",), "tiling", ("none",)),
    ("way", ("adapter",), "kind", ("torch",)),
    ("tiling", FACTORS["tiling"][1:], "size", FACTORS["size"][1:]),
    ("asked", SLABS, "tiling", ("none", "no overlap")),
    ("ratio", (4, 8), "frames", ((2, 1), (3, 0))),
    ("ratio", (8,), "together", ((8, 2),)),  # fewer frames do not show the last level
    ("ratio", (8,), "asked", ("encode", "decode")),
    ("ratio", (8,), "tiling", ("none",)),
    ("mode", ("eager",), "asked", ("encode", "decode")),
    ("mode", ("eager",), "way", ("call",)),
    ("mode", ("eager",), "tiling", ("none",)),
    ("mode", ("eager",), "ratio", (2,)),
    ("mode", ("eager",), "frames", ((0, 1), (2, 1))),
    ("mode", ("eager",), "quant", ("both",)),
    ("mode", ("eager",), "kind", ("view", "jax")),
    ("mode", ("eager",), "values", ("unit", "offset")),
    ("mode", ("eager",), "together", ((4, 3),)),
    ("mode", ("eager",), "activation", ("silu",)),
)
CHEAPEST = {"mode": "jit", "ratio": 1, "tiling": "none", "way": "call"}
SLAB_BYTES = {"row slabs": 1, "column slabs": 400}  # single rows; a few columns and a remainder
WIDTHS = (4, 8, 4, 8)
TILES = {"no overlap": (2, 0, 0.0), "blended": (3, 0, 1 / 3), "uneven": (2, 1, 0.4)}  # cells, pixels more, overlap
VALUES = {"unit": (0.0, 1.0), "wide": (0.0, 100.0), "offset": (50.0, 1.0)}  # centre and spread


def rows() -> list[Row]:
    """All rows, in the order of the file."""
    return [as_row(json.loads(line)) for line in ROWS.read_text(encoding="utf-8").splitlines()]


def shared(all_rows: list[Row], backends: Sequence[str]) -> list[tuple[str, ...]]:
    """Which of several backends take each row: the one for which it holds the most pairs anew.

    Convolutions beside the latents are a backend's own in slabs, and few rows have both: all take these.
    """
    held: dict[str, set[Any]] = {backend: set() for backend in backends}
    taken = []
    for row in all_rows:
        pairs = combinations_of(row)
        one = max(backends, key=lambda backend: (len(pairs - held[backend]), -len(held[backend])))
        taken.append(tuple(backends) if row["asked"] in SLABS and row["quant"] == "both" else (one,))
        for backend in taken[-1]:
            held[backend] |= pairs
    return taken


def keep(some: list[Row], mode: str = "a") -> None:
    """Write rows to the file, at its end or in the place of all."""
    with ROWS.open(mode, encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in some)


def as_row(fields: Row) -> Row:
    """A row as it was before it was written."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


def allowed(row: Row) -> bool:
    """Whether a row is one that `ASKS` leaves."""
    return all(row[name] not in values or row[other] in wanted for name, values, other, wanted in ASKS)


def combinations_of(row: Row, strength: int = 2) -> set[tuple[tuple[str, Any], ...]]:
    return set(itertools.combinations(row.items(), strength))


def covering(strength: int = 2, salt: str = "") -> list[Row]:
    """Rows that together hold every combination of so many values, as far as `ASKS` allows it, at the least cost."""
    from covertable import make  # which only drawing the rows needs

    asked = [{"operator": "or", "conditions": [
        {"operator": "not", "condition": {"operator": "in", "left": name, "values": list(values)}},
        {"operator": "in", "left": other, "values": list(wanted)},
    ]} for name, values, other, wanted in ASKS]  # fmt: skip
    factors = {name: list(values) for name, values in FACTORS.items()}
    found = make(factors, strength=strength, salt=salt, constraints=asked)
    return _cheapened([{name: row[name] for name in FACTORS} for row in found], strength)


def _cheapened(found: list[Row], strength: int) -> list[Row]:
    """The rows, where another does for a dear value with its factor's cheapest; none less is covered."""
    held = Counter(one for row in found for one in combinations_of(row, strength))
    for name, cheapest in CHEAPEST.items():
        for index, row in enumerate(found):
            other = row | {name: cheapest}
            lost = combinations_of(row, strength) - combinations_of(other, strength)
            if allowed(other) and all(held[one] > 1 for one in lost):
                held.subtract(lost)
                held.update(combinations_of(other, strength) - combinations_of(row, strength))
                found[index] = other
    for row in found[:]:
        own = combinations_of(row, strength)
        if all(held[one] > 1 for one in own):
            held.subtract(own)
            found.remove(row)
    return found


# Diffusers' side


def architecture(row: Row) -> dict[str, Any]:
    """The arguments of diffusers' class: as few blocks as the temporal ratio needs, and convolutions beside latents."""
    blocks = max(2, row["ratio"].bit_length())
    return {
        "block_out_channels": WIDTHS[:blocks],
        "down_block_types": ("CogVideoXDownBlock3D",) * blocks,
        "up_block_types": ("CogVideoXUpBlock3D",) * blocks,
        "layers_per_block": 1,
        "latent_channels": 2 if row["quant"] == "none" else 3,  # the convolutions take as many as a video has
        "temporal_compression_ratio": row["ratio"],
        "act_fn": row["activation"],
        "norm_num_groups": row["groups"],
        "norm_eps": row["eps"],
        "use_quant_conv": row["quant"] == "both",
        "use_post_quant_conv": row["quant"] == "both",
        "sample_height": 64,
        "sample_width": 64,
    }


def drawn_model(row: Row, rng: np.random.Generator) -> AutoencoderKLCogVideoX:
    """diffusers' model in float64, whose weights are numbers of the row's dtype."""
    model = AutoencoderKLCogVideoX(**architecture(row)).eval().requires_grad_(False).double()
    for name, tensor in model.state_dict().items():
        spread = tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.2
        centre = 1.0 if tensor.ndim == 1 and name.endswith("weight") else 0.0
        drawn = torch.from_numpy(centre + spread * rng.standard_normal(tensor.shape))
        tensor.copy_(drawn.to(getattr(torch, row["dtype"])).float())  # what is saved is float32
    return model


def _set_diffusers(model: AutoencoderKLCogVideoX, row: Row) -> None:
    model.num_sample_frames_batch_size, model.num_latent_frames_batch_size = row["together"]
    model.use_slicing = row["slicing"]
    model.use_tiling = False
    if row["tiling"] != "none":
        tile, overlap = tile_of(row)
        model.enable_tiling(tile, tile, overlap, overlap)
        model.tile_overlap_factor_height = model.tile_overlap_factor_width = overlap  # 0 asks it to keep its own


def of_diffusers(model: AutoencoderKLCogVideoX, row: Row, clip: np.ndarray) -> np.ndarray:
    """The moments or the video that a row asks for, channel-last and in float64."""
    _set_diffusers(model, row)
    x = first(torch.from_numpy(np.array(clip, np.float64))).to(model.dtype)
    with torch.no_grad(), ProductsInFloat32():
        return last(model.decode(x).sample if half_of(row) == "decode" else model.encode(x).latent_dist.parameters)


def first(clip: torch.Tensor) -> torch.Tensor:
    return clip.permute(0, 4, 1, 2, 3).contiguous()


def last(clip: torch.Tensor) -> np.ndarray:
    return clip.permute(0, 2, 3, 4, 1).double().numpy()


# What goes in


def half_of(row: Row) -> str:
    """encode or decode."""
    return row["asked"].partition(" ")[0]


def compression(row: Row) -> int:
    return 2 ** (len(architecture(row)["block_out_channels"]) - 1)


def tile_of(row: Row) -> tuple[int, float]:
    """A tile's side in pixels, and the share of it that overlaps."""
    cells, pixels, overlap = TILES[row["tiling"]]
    return cells * compression(row) + pixels, overlap


def shape_of(row: Row) -> tuple[int, ...]:
    decode = half_of(row) == "decode"
    times, more = row["frames"]
    frames = max(1, times * row["together"][decode] + more)
    sides = row["size"] if decode else tuple(_pixels(row, cells) for cells in row["size"])
    channels = architecture(row)["latent_channels"] if decode else 3
    return row["batch"], frames, *sides, channels


def _pixels(row: Row, cells: int) -> int:
    """A side of so many cells and a pixel more; in tiles, the least whose last one PyTorch can encode."""
    least = compression(row)
    if row["tiling"] == "none":
        return cells * least + 1
    tile, overlap = tile_of(row)
    stride = int(tile * (1 - overlap))
    return next(side for side in range(cells * least, 99) if (side - 1) % stride + 1 >= least)


def clip_of(row: Row, rng: np.random.Generator) -> np.ndarray:
    """Numbers of the row's dtype."""
    centre, spread = VALUES[row["values"]]
    return (centre + spread * rng.uniform(-1, 1, shape_of(row))).astype(DTYPES[row["dtype"]])


def given_as(kind: str, clip: np.ndarray) -> Any:
    """A clip as somebody may have it: the same numbers."""
    if kind == "view":  # neither in order nor without gaps, as what was cut from a larger clip and turned
        wide = np.zeros((*clip.shape[:3], 2 * clip.shape[3], clip.shape[4]), clip.dtype).transpose(3, 1, 2, 0, 4)
        wide[::-2] = clip.transpose(3, 1, 2, 0, 4)
        return wide[::-2].transpose(3, 1, 2, 0, 4)
    if kind == "jax":
        with dtype_scope(clip.dtype):
            return jnp.asarray(clip)
    if kind == "torch":
        return torch.from_numpy(clip.astype(np.float64)).to(getattr(torch, str(clip.dtype)))
    raise ValueError(f"unknown kind {kind!r}: expected view, jax or torch")


# A backend's side


def load(model: AutoencoderKLCogVideoX, backend: str, row: Row) -> Any:
    """A backend from the checkpoint that diffusers' model writes, with the row's form; "whole" where it names none."""
    with tempfile.TemporaryDirectory() as folder:
        saved = AutoencoderKLCogVideoX.from_config(model.config)
        saved.load_state_dict(model.state_dict())
        saved.save_pretrained(folder)
        vae: Any = twinvae.load(backend, weights=folder, dtype=row["dtype"], jit=row["mode"] == "jit")
    if form := row["asked"].partition(" in ")[2]:
        vae.forms, vae.slab_bytes = (form,), SLAB_BYTES[form]
    set_backend(vae.as_diffusers() if row["way"] == "adapter" else vae, row)
    return vae


def set_backend(vae: Any, row: Row) -> None:
    """The settings, on a VAE or on what stands for it in a pipeline."""
    vae.num_sample_frames_batch_size, vae.num_latent_frames_batch_size = row["together"]
    vae.use_slicing = row["slicing"]
    if row["tiling"] != "none":
        tile, overlap = tile_of(row)
        vae.enable_tiling(tile, tile, overlap, overlap)


def of_backend(vae: Any, row: Row, clip: np.ndarray) -> np.ndarray:
    """The moments or the video that a row asks for."""
    given, half = given_as(row["kind"], clip), half_of(row)
    if row["way"] == "call":
        return np.asarray(vae.decode(given) if half == "decode" else vae.encode(given).moments)
    if row["way"] == "adapter":
        x, adapter = given.movedim(-1, 1), vae.as_diffusers()
        out = adapter.decode(x).sample if half == "decode" else adapter.encode(x).latent_dist.parameters
        return last(out).astype(DTYPES[str(out.dtype).removeprefix("torch.")])
    return (_resumed if row["way"] == "stream" else _one_program)(vae, half, given)


def _resumed(vae: Any, operation: Any, clip: Any) -> np.ndarray:
    """A stream that stopped after its first frame batch and went on from that cache, after another had done so."""
    size = vae.frame_batch_size(operation)
    head = size + clip.shape[1] % size
    begun = stream(vae, operation, clip)
    start, cache = np.asarray(next(begun)), begun.cache
    before = [np.asarray(chunk) for chunk in begun]
    parts = [np.asarray(chunk) for chunk in stream(vae, operation, clip[:, head:], cache)]
    for one, other in zip(before, parts, strict=True):
        np.testing.assert_array_equal(one, other, err_msg="a stream gives other bits when it is resumed")
    return np.concatenate([start, *parts], axis=1)


def _one_program(vae: Any, operation: str, clip: Any) -> np.ndarray:
    lowered = vae.lower_encode(clip.shape) if operation == "encode" else vae.lower_decode(clip.shape)
    with dtype_scope(DTYPES[vae.dtype]):
        x = jnp.asarray(clip.double().numpy() if isinstance(clip, torch.Tensor) else clip, DTYPES[vae.dtype])
        return np.asarray(lowered.compile()(vae.params, x))


def main() -> None:
    """Draw the rows anew; those that were found are gone, where git has them."""
    keep(min((covering(salt=str(salt)) for salt in range(16)), key=len), "w")


if __name__ == "__main__":
    main()
