"""One video VAE, two JAX backends: `load()` any of them, or the PyTorch reference, behind one interface."""

from __future__ import annotations

from functools import partial
from typing import Any

from twinvae.config import PRESETS, VAEConfig, preset_config
from twinvae.interface import ConvCache, FrameStream, VideoVAE
from twinvae.plan import Plan
from twinvae.port import Port
from twinvae.posterior import Posterior
from twinvae.registry import Layer, backend_module, backends

__all__ = [
    "PRESETS",
    "ConvCache",
    "FrameStream",
    "Layer",
    "Plan",
    "Posterior",
    "VAEConfig",
    "VideoVAE",
    "backends",
    "load",
    "load_layer",
    "make_mesh",
]


def load(
    backend: str,
    *,
    weights: str | None = None,
    subfolder: str | None = None,
    preset: str = "tiny",
    dtype: str = "float32",
    jit: bool = True,
    seed: int = 0,
    memory_budget: str | int | None = None,
    mesh: Any = None,
) -> VideoVAE:
    """Load a VAE.

    Args:
        backend: one of `backends()`; "torch" is the reference.
        weights: a diffusers folder or hub id; None takes those of `preset`: seeded ones, the same for every backend,
            or those that "small" was trained to.
        subfolder: the VAE's folder inside `weights`, such as "vae".
        preset: one of `PRESETS`, used when `weights` is None.
        dtype: "float64", "float32" or "bfloat16", of weights and activations.
        jit: compile each frame batch; False runs op by op. The reference always runs op by op.
        seed: of the seeded weights.
        memory_budget: "16GiB", or bytes: calls take the fastest form whose peak is under it (see `VideoVAE.plan`).
            None: what the device has.
        mesh: of devices that share each call (see `make_mesh`); None: one device. Where they are of several hosts, one
            that can reads the weights, and sends them to the others.
    Raises:
        ValueError: unknown backend, preset or dtype, a seed that is no whole number, a checkpoint that does not fit its
            config, a budget that is no size, or a mesh that the backend cannot take.
        FileNotFoundError, OSError: files that are missing or cannot be read.
    """
    from twinvae.arrays import checked_dtype
    from twinvae.checkpoint import fingerprint, local_folder, read_checkpoint
    from twinvae.pretrained import preset_tensors
    from twinvae.sizes import parse_size

    module = backend_module(backend)
    checked_dtype(dtype)
    if memory_budget is not None:
        parse_size(memory_budget)  # before minutes of loading
    if weights is None:
        config = preset_config(preset)
        tensors = preset_tensors(preset, seed)
    else:
        config, tensors = _on_each_host(partial(read_checkpoint, weights, subfolder), mesh)
    loads = module.load
    if weights is not None and isinstance(module, Port):  # its own loader is given the folder itself
        loads = partial(module.load, folder=local_folder(weights, subfolder))
    vae = loads(config, tensors, dtype=dtype, jit=jit, checkpoint=fingerprint(tensors))
    if memory_budget is not None:
        set_budget = getattr(vae, "set_memory_budget", None)
        if set_budget is None:
            raise ValueError(
                f"the {backend!r} backend compiles nothing, and what it will need is not known before it runs: leave "
                "memory_budget out"
            )
        set_budget(memory_budget)
    if mesh is not None:
        on = getattr(vae, "on", None)
        if on is None:
            raise ValueError(f"the {backend!r} backend runs on one device: leave mesh out, or load 'flax'")
        vae = on(mesh)
    return vae


def _on_each_host(read: Any, mesh: Any) -> Any:
    """What is read: by each host, or where a mesh has devices of several, by one of them."""
    if mesh is None:
        return read()
    from twinvae.jax.hosts import read_once, spans_hosts

    return read_once(read) if spans_hosts(mesh) else read()


def make_mesh(
    shape: tuple[int, ...] | None = None,
    *,
    clips: int = 1,
    time: int = 1,
    rows: int = 1,
    devices: Any = None,
    vae: VideoVAE | None = None,
) -> Any:
    """A mesh of devices for `load(..., mesh=mesh)` and `vae.on(mesh)`: a call's numbers stay as they are.

    Args:
        shape: [b, t, h, w, c] of a video to encode, or of latents to decode (told apart by their channels): the split
            that takes the least time, by what devices compute and send; some may be left over. None: it is given.
        clips, time, rows: over how many devices clips of a batch, frame batches and rows of frames are dealt out.
        devices: as many as their product, or with a shape as many as there are; None: those that JAX has, of all hosts.
        vae: whose programs are to fit: of splits, the fastest whose compiled peak does. None: nothing is compiled, and
            the architecture is CogVideoX's own.
    Raises:
        ValueError: a count below 1, other devices than that many, or a shape beside counts, or of other channels.
        MemoryError: no split fits; the message names the smallest budget that would do.
    """
    from twinvae.jax import mesh  # which needs JAX

    if shape is None:
        return mesh.make_mesh(clips, time, rows, devices)
    if (clips, time, rows) != (1, 1, 1):
        raise ValueError(
            f"a shape, which says how to split, and clips={clips}, time={time}, rows={rows}: leave either out"
        )
    if vae is None:
        return mesh.fastest_mesh(preset_config("cogvideox-2b"), shape, devices)
    mesh_for = getattr(vae, "mesh_for", None)
    if mesh_for is None:
        raise ValueError(f"the {vae.backend!r} backend runs on one device: leave vae out, or load 'flax'")
    return mesh_for(shape, devices)


def load_layer(
    backend: str,
    class_name: str,
    init: dict[str, Any],
    state_dict: dict[str, Any],
    *,
    dtype: str = "float32",
    jit: bool = True,
) -> Layer:
    """Load one layer by diffusers' class name.

    Args:
        class_name: such as "CogVideoXCausalConv3d", "CogVideoXResnetBlock3D" or "CogVideoXDecoder3D"; also torch's
            "GroupNorm".
        init: the arguments of diffusers' `__init__`.
        state_dict: its tensors by name, in diffusers' layout.
    Returns:
        `layer(x, temb=None, zq=None, conv_cache=None) -> (output, conv_cache)`, channel-last.
    Raises:
        ValueError: unknown backend, class or dtype, or tensors that do not fit.
    """
    from twinvae.arrays import checked_dtype, to_numpy

    module = backend_module(backend)
    checked_dtype(dtype)
    tensors = {name: to_numpy(tensor) for name, tensor in state_dict.items()}
    return module.load_layer(class_name, init, tensors, dtype=dtype, jit=jit)
