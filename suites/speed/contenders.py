"""Contenders made ready to be called: a backend's VAE, diffusers on PyTorch, and the same under torch.compile."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import twinvae
from suites.speed.cases import CHANNELS_LAST, Contender, Group
from twinvae import VideoVAE, arrays
from twinvae.bench.resident import allocated
from twinvae.bench.timing import Run
from twinvae.bench.xla_cost import dispatches, program_costs
from twinvae.frames import latent_count
from twinvae.jax.backend import StepKind
from twinvae.registry import REFERENCE

TORCH_DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def input_of(group: Group, seed: int) -> np.ndarray:
    """A video, or the latents of one, drawn at random: what is in it makes no difference to the time."""
    size, config = group.size, group.model.config
    frames, cells, channels = size.frames, 1, config.in_channels
    if group.operation == "decode":
        frames = latent_count(frames, 8, config.temporal_levels)
        cells, channels = config.spatial_compression, config.latent_channels
    shape = (1, frames, size.height // cells, size.width // cells, channels)
    clip = np.random.default_rng(seed).uniform(-1, 1, shape)
    return clip.astype(arrays.DTYPES[group.dtype])


def load(contender: Contender, group: Group) -> VideoVAE:
    return twinvae.load(contender.backend, **group.model.source, dtype=group.dtype, jit=contender.mode == "jit")


def ready(vae: VideoVAE, contender: Contender, group: Group, clip: np.ndarray) -> Run:
    """One call on a clip that is on the device already, over when its result is there."""
    if contender.backend == REFERENCE:
        return _ready_torch(vae.model, contender, group, clip)
    return _ready_jax(vae, group, clip)


def _ready_jax(vae: VideoVAE, group: Group, clip: np.ndarray) -> Run:
    with arrays.dtype_scope(clip.dtype):
        given = jax.block_until_ready(jnp.asarray(clip))

    def run() -> None:
        (vae.enable_tiling if group.size.tiled else vae.disable_tiling)()
        jax.block_until_ready(_call(vae, group)(given))

    return run


def _call(vae: VideoVAE, group: Group) -> Any:
    return vae.decode if group.operation == "decode" else lambda video: vae.encode(video).moments


def _ready_torch(model: Any, contender: Contender, group: Group, clip: np.ndarray) -> Run:
    torch.backends.cudnn.benchmark = TORCH_DEVICE == "cuda"  # as users who want speed have it
    given = arrays.to_torch(clip).permute(0, 4, 1, 2, 3).contiguous().to(TORCH_DEVICE)
    model = model.to(TORCH_DEVICE)
    if contender.mode == CHANNELS_LAST:
        model = copy.deepcopy(model)
        for weights in model.parameters():
            if weights.dim() == 5:  # torch's own `model.to` gives up at the kernels of 2-D convolutions
                weights.data = weights.data.to(memory_format=torch.channels_last_3d)
        given = given.to(memory_format=torch.channels_last_3d)
    if contender.mode == "jit":
        half = f"{group.operation}r"
        model = copy.copy(model)  # the two share their weights
        model._modules = dict(model._modules)
        setattr(model, half, torch.compile(getattr(model, half)))

    @torch.no_grad()
    def run() -> None:
        (model.enable_tiling if group.size.tiled else model.disable_tiling)()
        with full_precision():
            out = model.decode(given).sample if group.operation == "decode" else model.encode(given).latent_dist.mean
        if out.device.type == "cuda":
            torch.cuda.synchronize()

    return run


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """float32 without TF32, as the backends compute it and as the parity suite wants it; bfloat16 is left alone."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on the device or beside it."""
    words = ("RESOURCE_EXHAUSTED", "out of memory", "can't allocate memory", "not enough memory")
    kinds = (MemoryError, torch.OutOfMemoryError)
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError) and any(word.lower() in str(error).lower() for word in words)
    )


def call_bytes(contender: Contender, run: Run) -> float | None:
    """Bytes that a warm call takes on an accelerator beside what is held before it; None on a CPU, where none is run.

    Kernels that were tried do not count, as those that were chosen are known by now. None as well where another
    contender's memory leaves no room to find out.
    """
    if contender.backend == REFERENCE:
        if TORCH_DEVICE == "cpu":
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        taken = torch.cuda.max_memory_allocated() - before
        torch.cuda.empty_cache()  # what was kept of kernels that were tried is the next contender's
        return taken
    device = jax.devices()[0]
    if device.memory_stats() is None:
        return None
    if TORCH_DEVICE == "cuda":
        torch.cuda.empty_cache()
    with allocated(device) as found:
        run()
    return found.get("above idle")


def evidence(vae: VideoVAE, group: Group, clip: np.ndarray) -> tuple[int, dict[str, dict[str, float]]]:
    """What a jitted call costs, exactly: how many programs it runs, and the costs of each encoder or decoder in it.

    Nothing is run, and after a first call nothing is compiled.
    """
    (vae.enable_tiling if group.size.tiled else vae.disable_tiling)()
    with arrays.dtype_scope(clip.dtype):
        count = dispatches(_call(vae, group), jnp.asarray(clip))
    programs = vae.lower_call(group.operation, clip.shape)
    return count, {_name(kind, group.size.tiled): program_costs(program) for kind, program in programs.items()}


def _name(kind: StepKind, tiled: bool) -> str:
    tile = f" of a {kind.height}x{kind.width} tile" if tiled else ""
    return f"{'first' if kind.first else 'later'} frame batch ({kind.frames}){tile}"
