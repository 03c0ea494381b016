"""Two VAEs or two layers compared by hand, part by part, and gradients held against numeric ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate

import twinvae
from twinvae import VideoVAE, arrays
from twinvae.bench import metrics
from twinvae.bench.layers import (
    drawn_tensors,
    input_channels,
    latent_channels,
    parts_of,
    rounded,
    used_cache,
)
from twinvae.registry import backend_module
from twinvae.tiles import Operation

# The relative error from which a part is said to depart. Rounding alone left at most 2.4e-15, 9e-7 and 1.5e-2 of a
# block of the tiny model, in both backends (bfloat16 against PyTorch in float32).
DEPARTS = {"float64": 1e-11, "float32": 1e-5, "bfloat16": 5e-2}
# Central differences in float64 over steps of 1e-4 agreed with the gradients of the tiny model to 3.4e-9 or better.
STEP, NUMERIC = 1e-4, 1e-6
COLUMNS = ("part", "max_abs", "mae", "relative_l2", "")


class Row(NamedTuple):
    """How far a part is from what was expected; `note` says why there are no numbers, and the errors are infinite."""

    part: str
    max_abs: float
    mae: float
    relative_l2: float
    note: str = ""


class Comparison(NamedTuple):
    """Part by part in the order of computation; printed, it is a table.

    Attributes:
        bar: the relative error from which a part departs.
    """

    title: str
    bar: float
    rows: tuple[Row, ...]

    @property
    def departing(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if not row.relative_l2 <= self.bar)

    @property
    def first(self) -> Row | None:
        """The first part that departs: its own code is to blame, or an input that it does not share with others."""
        return next(iter(self.departing), None)

    def __str__(self) -> str:
        marked = [(*row[:-1], row.note or ("departs" if row in self.departing else "")) for row in self.rows]
        last = f"{self.first.part} is the first to depart" if self.first else "nothing departs"
        table = tabulate(marked, COLUMNS, floatfmt=".2e", disable_numparse=[0, 4])
        return f"{self.title}\n\n{table}\n\n{last} (relative_l2 over {self.bar:g})"


def compare(
    found: VideoVAE,
    expected: VideoVAE,
    video: Any,
    operations: Sequence[Operation] = ("encode", "decode"),
    bar: float | None = None,
) -> Comparison:
    """Compare every block of two VAEs on a video, nothing tiled; both decode the latents of `expected`.

    Args:
        video: [b, t, h, w, c] in [-1, 1].
        bar: the relative error from which a block departs; None: what rounding leaves in the dtype of `found`.
    Raises:
        ValueError: a video that the VAEs do not take.
    """
    rows: list[Row] = []
    for operation in operations:
        given: Any = video if operation == "encode" else arrays.to_numpy(expected.encode(video).mean)
        ours, theirs = (_as_numpy(vae.activations(operation, given)) for vae in (found, expected))
        rows += _rows(ours, theirs)
    names = (f"{vae.backend} in {vae.dtype}" for vae in (found, expected))
    return Comparison(" against ".join(names), DEPARTS[found.dtype] if bar is None else bar, tuple(rows))


def compare_layers(
    found: str,
    expected: str,
    class_name: str,
    init: dict[str, Any],
    x: Any,
    zq: Any = None,
    temb: Any = None,
    *,
    tensors: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    jit: bool = True,
    seed: int = 0,
    bar: float | None = None,
) -> Comparison:
    """Compare a layer of two backends: outputs and conv caches, of a first frame batch and of one that follows it.

    Args:
        class_name, init: diffusers' class and the arguments of its `__init__`.
        x, zq: arrays [b, t, h, w, c], or sizes (t, h, w) of ones drawn at random; temb: [b, channels].
        tensors: by name, in diffusers' layout; None draws them.
    Raises:
        ValueError: unknown backend, class or dtype, or tensors that do not fit.
    """
    rng = np.random.default_rng(seed)
    tensors = drawn_tensors(class_name, init, dtype, rng) if tensors is None else tensors
    given = {"x": _drawn(x, input_channels(init), rng)}
    if zq is not None:
        given["zq"] = _drawn(zq, latent_channels(init), rng)
    if temb is not None:
        given["temb"] = arrays.to_numpy(temb)
    given = rounded(given, dtype)
    ours, theirs = (
        twinvae.load_layer(backend, class_name, init, dict(tensors), dtype=dtype, jit=jit)
        for backend in (found, expected)
    )
    carried = rounded(used_cache(_as_numpy(theirs(**given)[1]), init), dtype)
    rows = []
    for cache in (None, carried) if carried is not None else (None,):
        rows += _rows(*(parts_of(layer, given, init, cache) for layer in (ours, theirs)))
    title = f"{class_name}, {found} against {expected} in {dtype}"
    return Comparison(title, DEPARTS[dtype] if bar is None else bar, tuple(rows))


def check_gradients(
    vae: VideoVAE, video: Any, parts: Sequence[str] = ("video", "encoder", "decoder"), seed: int = 0
) -> Comparison:
    """Hold `vae.gradients` against central differences of its own calls, op by op in float64, along random directions.

    Each part's direction is random in all of its tensors at once; finer parts, such as "decoder.up_blocks.0" or
    "decoder.conv_in.conv.weight", find the tensor whose gradient is wrong.

    Args:
        vae: in float64; its frame batch sizes are used, and nothing is tiled.
        parts: "video", or the beginnings of tensors' names.
    Raises:
        ValueError: another dtype, or a part that no tensor's name begins with.
    """
    if vae.dtype != "float64":
        raise ValueError(
            f"the VAE is in {vae.dtype}, whose rounding differences drown in: load it with dtype='float64'"
        )
    rng = np.random.default_rng(seed)
    video = np.asarray(arrays.to_numpy(video), np.float64)
    at = {"video": video} | vae.state_dict()
    rest = {name: getattr(vae, name) for name in ("num_sample_frames_batch_size", "num_latent_frames_batch_size")}

    def reconstruct(moved: dict[str, Any]) -> np.ndarray:
        tensors = {name: tensor for name, tensor in moved.items() if name != "video"}
        one = backend_module(vae.backend).load(vae.config, tensors, dtype=vae.dtype, jit=False, checkpoint="")
        vars(one).update(rest)
        return arrays.to_numpy(one(moved["video"]))

    cotangent: Any = rng.standard_normal(reconstruct(at).shape)
    gradients = vae.gradients(video, cotangent)
    rows = []
    for part in parts:
        names = [name for name in at if name == part or name.startswith(f"{part}.")]
        if not names:
            raise ValueError(f"no tensor's name begins with {part!r}: give 'video', 'encoder', 'decoder.conv_in' or so")
        along = {name: rng.standard_normal(at[name].shape) for name in names}
        size = np.sqrt(sum(np.vdot(direction, direction) for direction in along.values()))
        ahead, behind = (
            reconstruct(at | {name: at[name] + step / size * along[name] for name in names}) for step in (STEP, -STEP)
        )
        numeric = np.vdot(cotangent, ahead - behind) / (2 * STEP)
        ours = sum(np.vdot(gradients[name], along[name]) for name in names) / size
        error = abs(ours - numeric)
        rows.append(Row(part, error, error, error / abs(numeric) if numeric else np.inf if error else 0.0))
    return Comparison(f"gradients of {vae.backend} against central differences", NUMERIC, tuple(rows))


def _drawn(given: Any, channels: int, rng: np.random.Generator) -> np.ndarray:
    """An array as it is, or a random one of the size (t, h, w)."""
    return rng.standard_normal((1, *given, channels)) if isinstance(given, tuple) else arrays.to_numpy(given)


def _as_numpy(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {name: _as_numpy(part) for name, part in tree.items()}
    return None if tree is None else arrays.to_numpy(tree)


def _rows(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> list[Row]:
    rows = []
    for part in [*expected, *(name for name in found if name not in expected)]:
        if part not in found or part not in expected:
            rows.append(
                Row(part, np.inf, np.inf, np.inf, f"missing in {'what was found' if part in expected else 'the other'}")
            )
        elif found[part].shape != expected[part].shape:
            note = f"shape {found[part].shape}, expected {expected[part].shape}"
            rows.append(Row(part, np.inf, np.inf, np.inf, note))
        else:
            pair = found[part], expected[part]
            rows.append(Row(part, metrics.max_abs(*pair), metrics.mae(*pair), metrics.relative_l2(*pair)))
    return rows
