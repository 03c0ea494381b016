"""Arrays in and out: NumPy, JAX and torch accepted, rank, channels and dtype checked."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np

DTYPES: dict[str, np.dtype] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
LAYOUT = "[batch, time, height, width, channel]"


def checked_dtype(name: str) -> np.dtype:
    """The NumPy dtype of a backend's `dtype` argument.

    Raises:
        ValueError: not one of float64, float32, bfloat16.
    """
    if name not in DTYPES:
        raise ValueError(f"unknown dtype {name!r}: choose one of {', '.join(DTYPES)}")
    return DTYPES[name]


@contextlib.contextmanager
def dtype_scope(dtype: np.dtype) -> Iterator[None]:
    """Where JAX computes in a dtype, whatever else the process has asked it for, which is left as it was.

    Inside, 64-bit types are enabled for float64, and types and ranks are promoted as NumPy does.
    """
    import jax

    asked: Any = jax.config
    with contextlib.ExitStack() as scope:
        if np.dtype(dtype) == np.float64:
            scope.enter_context(jax.enable_x64(True))
        if asked.jax_numpy_dtype_promotion != "standard":
            scope.enter_context(jax.numpy_dtype_promotion("standard"))
        if asked.jax_numpy_rank_promotion != "allow":
            scope.enter_context(jax.numpy_rank_promotion("allow"))
        yield


class Pickled:
    """What is pickled with its JAX arrays as NumPy's: JAX would read float64 as float32 where that is not enabled."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: _in_numpy(value) for name, value in vars(self).items()}


def _in_numpy(tree: Any) -> Any:
    if "jax" not in sys.modules:
        return tree
    return sys.modules["jax"].tree.map(lambda leaf: np.asarray(leaf) if is_jax(leaf) else leaf, tree)


def is_jax(array: Any) -> bool:
    """Whether it is a JAX array, or one that JAX traces, without loading JAX to know."""
    return "jax" in sys.modules and isinstance(array, sys.modules["jax"].Array)


def is_float(dtype: np.dtype) -> bool:
    """Whether it is one of NumPy's floats, or of those that ml_dtypes adds, such as bfloat16 and float8."""
    return dtype.name.startswith(("float", "bfloat", "longdouble"))


def to_numpy(array: Any) -> np.ndarray:
    """A NumPy view or copy of a NumPy, JAX or torch array; bfloat16 stays bfloat16.

    Raises:
        ValueError: a torch tensor that has no values, or none that NumPy can hold.
    """
    if "torch" in sys.modules and isinstance(array, sys.modules["torch"].Tensor):
        return _from_torch(array)
    return np.asarray(array)


def _from_torch(tensor: Any) -> np.ndarray:
    import torch

    try:
        plain = tensor.detach().to_dense().cpu().resolve_conj().resolve_neg()
        if plain.dtype == torch.bfloat16:
            return plain.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
        if plain.dtype.is_floating_point and plain.dtype.itemsize == 1:  # float8: float32 holds each of its values
            plain = plain.float()
        return plain.numpy()
    except (RuntimeError, TypeError) as error:
        kind = f"{type(tensor).__name__} of {tensor.dtype} and {tensor.layout} on {tensor.device}"
        raise ValueError(
            f"a torch {kind} has no values that NumPy can hold ({str(error).splitlines()[0][:200]}): pass a plain "
            "tensor, such as torch.zeros makes, of float64, float32, float16 or bfloat16"
        ) from error


def to_torch(array: np.ndarray) -> Any:
    """A torch CPU tensor with its own memory; bfloat16 stays bfloat16."""
    import torch

    array = np.array(array, order="C")
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def checked(array: Any, what: str, channels: int, dtype: np.dtype, least: int) -> Any:
    """Check a video or latent and bring it to `dtype`: a JAX array stays one, anything else becomes NumPy.

    Args:
        what: its name in messages, "video" or "latents".
        channels: channels expected last.
        least: smallest height and width.
    Raises:
        ValueError: wrong rank, channels or dtype, an empty axis, a frame smaller than `least`, or a torch tensor that
            NumPy cannot hold.
    """
    if not is_jax(array):
        array = to_numpy(array)
    shape = tuple(array.shape)
    if len(shape) != 5:
        raise ValueError(f"{what} has shape {shape}: expected 5 axes, {LAYOUT}; add a batch axis with array[None]")
    if shape[-1] != channels:
        raise ValueError(
            f"{what} has {shape[-1]} channels in {shape}: expected {channels} in {LAYOUT}"
            f"{_hint(what, shape, channels, least)}"
        )
    if not is_float(array.dtype):
        raise ValueError(
            f"{what} is {array.dtype}: expected floats, and for a video values in [-1, 1] (uint8 / 127.5 - 1)"
        )
    if shape[0] < 1 or shape[1] < 1:
        raise ValueError(f"{what} of shape {shape} has no {'frames' if shape[0] else 'batch items'}: give at least 1")
    if min(shape[2:4]) < least:
        raise ValueError(f"{what} is {shape[2]}x{shape[3]} in {shape}: height and width must be at least {least}")
    return array if array.dtype == dtype else _cast(array, dtype)


def _hint(what: str, shape: tuple[int, ...], channels: int, least: int) -> str:
    """What to do about channels that are not as many as expected, where the shape tells."""
    if what == "video" and channels == 3 and shape[-1] in (1, 2, 4):
        kind, cure = ("RGBA", "video[..., :3]") if shape[-1] == 4 else ("gray", "np.repeat(video[..., :1], 3, axis=-1)")
        return f"; of a clip in {kind} pass {cure}"
    if shape[1] == channels and min(shape[3:]) >= least:  # what would be height and width then is large enough
        return " (if channels are second here, as in torch, move them last)"
    return ""


def _cast(array: Any, dtype: np.dtype) -> Any:
    with dtype_scope(dtype) if is_jax(array) else contextlib.nullcontext():
        return array.astype(dtype)
