"""An experiment: kernels in one byte, int8 or float8, with a scale for each output channel, widened where used.

    python -m suites.training.narrow quality FOLDER   # PSNR lost by `small`; FOLDER: of the clips it was trained on
    python -m suites.training.narrow quality          # by the full architecture's seeded weights, against its float32
    python -m suites.training.narrow times            # on this machine
    python -m suites.training.narrow peaks v6e        # by a chip's compiler, of programs of the memory page

What came of it is in docs/training.md. No part of the product uses it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import typer
from flax import nnx

from impl_flax import load
from impl_flax.autoencoder import AutoencoderKLCogVideoX, FlaxVAE
from impl_flax.params import to_torch_layout
from impl_flax.train.clips import divide
from impl_flax.train.evaluation import qualities
from impl_flax.train.step import Structure
from twinvae import arrays
from twinvae.bench.aot.compilers import sharding_on
from twinvae.bench.aot.tpu_compiler import MEMORY, compiled
from twinvae.bench.clips import synthetic_clip
from twinvae.bench.environment import prepare_jax
from twinvae.bench.metrics import psnr
from twinvae.bench.models import TRAINED, Model
from twinvae.bench.timing import median, ratio, time_in_turn
from twinvae.bench.training import read_clips
from twinvae.config import VAEConfig
from twinvae.forms import WHOLE
from twinvae.jax.chips import CHIPS
from twinvae.jax.memory import tree_bytes
from twinvae.tensors import Tensors

KINDS = {"int8": (jnp.int8, 127), "float8": (jnp.float8_e4m3fn, 448)}  # the largest value that each holds
LARGE = Model.of_preset("cogvideox-2b", 0)
EDGES = ("coder.conv_in", "coder.conv_out")  # the first and the last convolution of each half
CLIP = (9, 96, 160)  # of the full architecture, on this machine
SIZES = {TRAINED: (9, 128, 192), LARGE: CLIP}  # that are timed
ROUNDS = {TRAINED: 10, LARGE: 3}

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class Narrow(NamedTuple):
    """A kernel: values [*window, in, out] in one byte, and what those of each output channel are multiples of."""

    values: jax.Array
    scales: jax.Array


def narrowed(kernel: jax.Array, kind: str) -> Narrow:
    """The largest weight of each output channel becomes the largest value of the type."""
    dtype, most = KINDS[kind]
    largest = jnp.abs(kernel).max(tuple(range(kernel.ndim - 1)))
    scales = jnp.where(largest > 0, largest, 1) / most
    values = kernel / scales
    return Narrow((jnp.round(values) if kind == "int8" else values).astype(dtype), scales)


def widened(weight: jax.Array | Narrow, dtype: np.dtype) -> jax.Array:
    if not isinstance(weight, Narrow):
        return weight
    return (weight.values.astype(weight.scales.dtype) * weight.scales).astype(dtype)


class NarrowVAE(FlaxVAE):
    """The native backend, whose programs are given kernels in one byte; vectors are as they were."""

    def __init__(self, config: VAEConfig, tensors: Mapping[str, np.ndarray], kind: str, dtype: str):
        self.structure = Structure(*nnx.split(nnx.eval_shape(lambda: AutoencoderKLCogVideoX(config))))
        with arrays.dtype_scope(np.dtype(np.float32)):
            named = self.structure.named(tensors, np.dtype(np.float32))
            params = {name: narrowed(weight, kind) if weight.ndim > 1 else weight.astype(arrays.DTYPES[dtype])
                      for name, weight in named.items()}  # fmt: skip
        super().__init__(config, dtype, "", self.structure.graph, params, jit=True)

    def step(self, operation, params, frames, cache, form=WHOLE):
        return super().step(operation, self._state(params), frames, cache, form)

    def named_tensors(self, params):
        return to_torch_layout(self._state(params))

    def _state(self, params) -> nnx.State:
        dtype = arrays.DTYPES[self.dtype]
        return self.structure.state({name: widened(weight, dtype) for name, weight in params.items()})


def contenders(model: Model, dtype: str) -> Iterator[tuple[str, FlaxVAE]]:
    """The VAE as it is, and with its kernels in one byte, one after the other."""
    tensors = model.tensors()
    yield dtype, load(model.config, dict(tensors), dtype=dtype, jit=True, checkpoint="")
    for kind in KINDS:
        yield f"{kind} in {dtype}", NarrowVAE(model.config, tensors, kind, dtype)


@app.command()
def quality(clips: Annotated[Path | None, typer.Argument()] = None) -> None:
    """PSNR of what comes back: of `small`, from its held-out clips; of the full architecture, from its own float32."""
    prepare_jax()
    if clips is not None:
        of_trained(clips)
        return
    whole = next(contenders(LARGE, "float32"))[1]
    latents = whole.encode(synthetic_clip(*CLIP)).mode()
    expected = np.asarray(whole.decode(latents))
    for dtype in ("float32", "bfloat16"):
        for name, vae in contenders(LARGE, dtype):
            back = psnr(np.asarray(vae.decode(latents), np.float32), expected)
            print(f"{LARGE.label} {name}: {tree_bytes(vae.params) / 1e6:.1f} MB, decoded {back:.2f} dB", flush=True)


def of_trained(clips: Path) -> None:
    found: dict[str, Tensors] = {name: vae.state_dict() for name, vae in contenders(TRAINED, "float32")}
    whole = found["float32"]
    for kind in KINDS:
        found[f"{kind}, but not {' and '.join(EDGES)}"] = {
            name: whole[name] if any(edge in name for edge in EDGES) else one
            for name, one in found[f"{kind} in float32"].items()
        }
    found["bfloat16"] = {name: np.asarray(jnp.asarray(one, jnp.bfloat16), np.float32) for name, one in whole.items()}
    held_out = divide(read_clips(clips), "carphone").held_out
    for name, tensors in found.items():
        each = {one.clip: round(one.psnr, 3) for one in qualities(TRAINED.config, tensors, held_out)}
        print(name, each, f"mean {np.mean(list(each.values())):.3f}", flush=True)


@app.command()
def times() -> None:
    """Decoding on this machine, in turn."""
    prepare_jax()
    for model, size in SIZES.items():
        found = dict(contenders(model, "float32"))
        latents = found["float32"].encode(synthetic_clip(*size)).mode()
        runs = {name: partial(decoded, vae, latents) for name, vae in found.items()}
        for run in runs.values():
            run()
        timings = time_in_turn(runs, ROUNDS[model])
        for name, vae in found.items():
            over, taken = ratio(timings, name, "float32"), median(timings, name).value
            print(f"{model.label} {name}: {tree_bytes(vae.params) / 1e6:.1f} MB, {taken:.3f} s, {over.value:.3f}",
                  over.interval, over.note)  # fmt: skip


def decoded(vae: FlaxVAE, latents: jax.Array) -> None:
    jax.block_until_ready(vae.decode(latents))


@app.command()
def peaks(chip: str) -> None:
    """Programs of the memory page: 8 frames of 768x1360 as one, and a tile's later frame batches, in slabs."""
    prepare_jax()
    sharding = sharding_on(chip)
    for name, vae in contenders(LARGE, "bfloat16"):
        vae.set_memory_budget("1GiB")  # for which it takes the leanest form, as there
        programs = {
            "a tile's frame batch": vae.lower_step("decode", (1, 2, 30, 45, 16), sharding),
            "8 frames at 768x1360": vae.lower_decode((1, 2, 96, 170, 16), sharding),
        }
        for what, lowered in programs.items():
            # A chip without memory: what is asked for is said before machine code is made, within 0.4 % (see `sized`).
            found = compiled(lowered, {MEMORY: "1"} if CHIPS[chip].kind == "tpu" else {})
            print(f"{name}, {what}: {found}", flush=True)


if __name__ == "__main__":
    app()
