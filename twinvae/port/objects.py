"""Objects of a port, inside of its process: built, given settings, called, and their outputs as plain arrays."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from twinvae import arrays
from twinvae.port.errors import PortGave, PortRaised
from twinvae.port.source import Found, arguments, where

BATCHES = ("num_sample_frames_batch_size", "num_latent_frames_batch_size")
TILES = (
    "tile_sample_min_height", "tile_sample_min_width", "tile_overlap_factor_height", "tile_overlap_factor_width",
)  # fmt: skip
METHODS = {"activations": ("activations",), "gradients": ("gradients",), "tensors": ("state_dict",)}
GIVES = {"encode": "latent_dist", "decode": "sample"}  # what diffusers' class wraps its outputs in
READ = ("block_out_channels", "temporal_compression_ratio", "scaling_factor", "invert_scale_latents")  # by pipelines


class Config(dict):
    """The fields of a `config.json`, by key and by attribute, as diffusers has them."""

    __getattr__ = dict.__getitem__


def build(found: Found, given: Mapping[str, Any]) -> Any:
    """Call a builder with what it takes of config, tensors, folder, variant, dtype and jit.

    Raises:
        PortRaised: it raised.
        PortGave: what it returned has no `encode` and `decode`.
    """
    if found.kind == "object":
        return found.target
    values = dict(given) | {"config": Config(given["config"])}
    taken = {name: values[role] for name, role in arguments(found.target).items()}
    name = getattr(found.target, "__name__", "the builder")
    built = guarded(name, lambda: _called(found.target, taken))
    lacking = [operation for operation in ("encode", "decode") if not callable(getattr(built, operation, None))]
    if lacking:
        raise PortGave(f"{name} returned a {type(built).__name__} without {' and '.join(lacking)}")
    return built


def _called(function: Any, taken: dict[str, Any]) -> Any:
    positional = [
        taken.pop(name)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_ONLY and name in taken
    ]
    return function(*positional, **taken)


def guarded(what: str, run: Any) -> Any:
    """Run the port's code; everything that it raises is told in one line.

    Raises:
        PortRaised: it raised, or called `sys.exit`.
    """
    try:
        return run()
    except SystemExit as end:
        raise PortRaised(f"{what} called sys.exit({end.code!r})") from None
    except BaseException as error:
        raise PortRaised(f"{what} raised {where(error)}") from error


def abilities(target: Any) -> list[str]:
    """The capabilities that an object has by its methods and attributes."""
    found = [name for name, methods in METHODS.items() if all(callable(getattr(target, m, None)) for m in methods)]
    if callable(getattr(target, "enable_slicing", None)) or hasattr(target, "use_slicing"):
        found.append("slicing")
    if callable(getattr(target, "enable_tiling", None)) and _takes_tiles(target.enable_tiling):
        found.append("tiling")
    if all(hasattr(target, name) for name in BATCHES):
        found.append("batches")
    if callable(getattr(target, "encode_stream", None)) and callable(getattr(target, "decode_stream", None)):
        found.append("stream")
    for name, method in (("layers", "load_layer"), ("saves", "save_pretrained"), ("pipeline", "as_diffusers")):
        if callable(getattr(target, method, None)):
            found.append(name)
    return found


def _takes_tiles(function: Any) -> bool:
    parameters = inspect.signature(function).parameters.values()
    return any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters) or set(TILES) <= {
        one.name for one in parameters
    }


def settle(target: Any, settings: Mapping[str, Any]) -> None:
    """Give an object what a VAE's attributes say: frame batch sizes, tiles, slicing; only what it has."""
    for name in BATCHES:
        if hasattr(target, name):
            setattr(target, name, settings[name])
    _switch(target, "slicing", settings["use_slicing"], {})
    _switch(target, "tiling", settings["use_tiling"], settings["tiles"])


def _switch(target: Any, what: str, on: bool, given: Mapping[str, Any]) -> None:
    method = getattr(target, f"{'enable' if on else 'disable'}_{what}", None)
    if callable(method):
        method(**given if on else {})
    elif hasattr(target, f"use_{what}"):
        setattr(target, f"use_{what}", on)
    for name, value in given.items() if on else ():
        if hasattr(target, name):  # diffusers' enable_tiling cannot be told an overlap of 0
            setattr(target, name, value)


def call(target: Any, operation: str, clip: np.ndarray, kind: str, compile: bool) -> Any:
    """Encode or decode.

    Args:
        clip: in the port's layout and range.
        kind: of the array that it is given: jax, numpy or torch.
        compile: whether the function is given to `jax.jit`.
    Raises:
        PortRaised: it raised.
    """
    function = getattr(target, operation)
    if compile:
        import jax

        function = jax.jit(function)
    return guarded(operation, lambda: function(as_kind(clip, kind)))


def arrays_of(operation: str, out: Any) -> dict[str, np.ndarray]:
    """What a call returned, taken apart.

    Raises:
        PortGave: it is no arrays of floats.
    """
    return {name: plain(operation, part) for name, part in parts(operation, out).items()}


def as_kind(array: np.ndarray, kind: str) -> Any:
    if kind == "jax":
        import jax.numpy as jnp

        return jnp.asarray(array)
    return arrays.to_torch(array) if kind == "torch" else np.array(array)


def parts(operation: str, out: Any) -> dict[str, Any]:
    """The arrays of an output: moments, or mean and log-variance, or the mode alone; of a decoder the video.

    Raises:
        PortGave: it is none of what a port may return.
    """
    if operation == "decode":
        out = _unwrapped(out, "sample")
        return {"video": out[0] if isinstance(out, tuple) and len(out) == 1 else out}
    out = _unwrapped(out, "latent_dist")
    if isinstance(out, tuple | list) and len(out) == 1:
        out = out[0]
    if isinstance(out, tuple | list) and len(out) == 2 and all(map(_is_array, out)):
        return {"mean": out[0], "logvar": out[1]}
    if _is_array(out):
        return {"moments": out}
    fields = out if isinstance(out, Mapping) else {n: getattr(out, n) for n in _POSTERIOR if hasattr(out, n)}
    for name in ("moments", "parameters"):
        if _is_array(fields.get(name)):
            return {"moments": fields[name]}
    if _is_array(fields.get("mean")):
        return {name: fields[name] for name in ("mean", "logvar") if _is_array(fields.get(name))}
    if callable(fields.get("mode")):
        return {"mean": guarded("the posterior's mode", fields["mode"])}
    if _is_array(fields.get("mode")):
        return {"mean": fields["mode"]}
    raise PortGave(
        f"encode returned {_described(out)}: expected moments (mean and log-variance along the channels), the tuple "
        "(mean, logvar), a posterior with .mean and .logvar or .mode(), or the latents' mode alone"
    )


_POSTERIOR = ("moments", "parameters", "mean", "logvar", "mode")


def _unwrapped(out: Any, name: str) -> Any:
    if isinstance(out, tuple | list) and len(out) == 1:
        out = out[0]
    if isinstance(out, Mapping) and name in out:
        return out[name]
    wrapped = getattr(out, name, None)
    return out if wrapped is None or callable(wrapped) else wrapped


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "ndim")


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} of {', '.join(map(str, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)} ({', '.join(type(part).__name__ for part in value[:4])})"
    return "None" if value is None else f"a {type(value).__name__}"


def plain(what: str, value: Any) -> np.ndarray:
    """A NumPy array of floats.

    Raises:
        PortGave: it is no array, or of no floats; a tracer that leaked is none either.
    """
    if not _is_array(value):
        raise PortGave(f"{what} returned {_described(value)}: expected an array")
    try:
        array = np.array(arrays.to_numpy(value))
    except Exception as error:
        words = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PortGave(f"{what} returned an array that cannot be read: {words}") from error
    if array.dtype != np.float16 and not arrays.is_float(array.dtype):
        raise PortGave(f"{what} returned {array.dtype}: expected floats, of a video in [-1, 1]")
    return array


def wrapper_of(target: Any) -> Any:
    """What stands in the place of a pipeline's VAE: what `as_diffusers` gives, or the object itself."""
    make = getattr(target, "as_diffusers", None)
    return guarded("as_diffusers", make) if callable(make) else target


def read_by_pipelines(wrapper: Any) -> dict[str, Any]:
    """The fields of its config that pipelines read, as far as it has them."""
    config = getattr(wrapper, "config", None)
    return {name: getattr(config, name) for name in READ if hasattr(config, name)}


def call_wrapper(
    wrapper: Any, operation: str, clip: np.ndarray, state: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Call a pipeline wrapper as diffusers' pipelines do: `.sample` of a decode, a draw from an encode's posterior.

    Args:
        clip: [b, c, t, h, w].
        state: of the torch generator that draws; None where torch's own does.
    Returns:
        What the pipeline goes on with, and the generator's state then.
    Raises:
        PortRaised, PortGave: it raised, or gave what a pipeline cannot go on with.
    """
    import torch

    what, generator = f"{operation} of the pipeline wrapper", None
    if state is not None:
        generator = torch.Generator()
        generator.set_state(torch.from_numpy(state.copy()))
    with torch.no_grad():
        out = guarded(what, lambda: getattr(wrapper, operation)(arrays.to_torch(clip)))
        found = getattr(out, GIVES[operation] if operation == "decode" else "latents", None)
        if operation == "encode" and hasattr(out, GIVES[operation]):
            found = guarded(f"{what}, .latent_dist.sample", lambda: out.latent_dist.sample(generator))
    if not isinstance(found, torch.Tensor):
        asked = ".sample" if operation == "decode" else ".latent_dist.sample(generator)"
        gave = _described(out) if found is None else f"{_described(found)} for {asked}"
        raise PortGave(f"{what} gave {gave}: a pipeline goes on with {asked}, a torch tensor")
    return plain(what, found), None if generator is None else generator.get_state().numpy()


def traceable(target: Any, operation: str, clip: np.ndarray) -> str:
    """Why JAX cannot trace a function as a whole; empty where it can."""
    if "jax" not in sys.modules:
        return "it does not use JAX"
    import jax

    try:
        jax.eval_shape(getattr(target, operation), jax.ShapeDtypeStruct(clip.shape, clip.dtype))
    except Exception as error:
        return where(error)
    return ""


def nested(value: Any, convert: Any) -> Any:
    """A conv cache, or a dictionary of outputs, with every array converted."""
    if isinstance(value, Mapping):
        return {name: nested(part, convert) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(nested(part, convert) for part in value)
    return convert(value) if _is_array(value) else value
