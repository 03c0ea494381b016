"""The programs of denoising that compilers are asked for: CogVideoX1.5-5B at 81 frames, and its attention alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from impl_torchax.transformer import Network
from stages.sampling import Table, denoise
from suites.generation.cases import (
    ATTENTION,
    CONFIG,
    EDGES,
    HEADS,
    KEYS,
    LATENTS,
    LAYERS,
    MESH,
    ONE_CHIP,
    OTHER_MESHES,
    SHALLOW,
    STEPS,
    TEXT,
    TOKENS,
    WIDTH,
    tried,
)  # fmt: skip
from twinvae.bench.aot import cuda
from twinvae.bench.aot.compilers import devices_of, missing
from twinvae.jax.attention import Blocks, flash, fused
from twinvae.jax.chips import CHIPS
from twinvae.jax.compiling import compiler_options, tracing_for
from twinvae.jax.tokens import make_token_mesh


class Case(NamedTuple):
    """A program.

    Args:
        devices: that it takes.
        lower: makes it, for a kind of chip and its devices.
    """

    devices: int
    lower: Callable[[str, Sequence[Any]], jax.stages.Lowered]

    def lowered_for(self, chip: str) -> tuple[str, jax.stages.Lowered]:
        """What it is compiled for, in short, and the program."""
        found, compiled_for = devices_of(chip, self.devices)
        return compiled_for, self.lower(CHIPS[chip].kind, found)


def missing_for(chip: str) -> str:
    """Why programs of attention are not compiled for a chip here, and the line that mends it; empty where they are."""
    return cuda.missing() or cuda.missing_attention() if CHIPS[chip].kind == "gpu" else missing(chip)


@contextmanager
def tracing(kind: str) -> Iterator[None]:
    """Programs that are told apart by what they compute: a TPU kernel's text holds the lines of its source."""
    before = jax.config.values["jax_traceback_in_locations_limit"]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        with tracing_for(kind):
            yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def step(mesh: tuple[int, int, int] | None = None, layers: int = LAYERS) -> Case:
    """Denoising with guidance, on one chip or on a mesh."""
    return Case(8 if mesh else 1, partial(_lowered_step, mesh=mesh, layers=layers))


def _lowered_step(
    kind: str, found: Sequence[Any], mesh: tuple[int, int, int] | None, layers: int
) -> jax.stages.Lowered:
    on = None if mesh is None else make_token_mesh(*mesh, devices=found[: int(np.prod(mesh))])
    network = Network(CONFIG | {"num_layers": layers}, on)
    whole: Sharding = SingleDeviceSharding(found[0]) if on is None else NamedSharding(on, PartitionSpec())

    def given(shape: tuple[int, ...], dtype: Any = jnp.bfloat16, sharding: Sharding = whole) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    params = {
        name: given(weight.shape, sharding=whole if on is None else weight.sharding(on))
        for name, weight in network.weights.items()
    }
    wide = partial(given, dtype=jnp.float32)
    table = Table(wide((STEPS, HEADS * WIDTH)), wide((STEPS, 4)), wide((STEPS, 2)), wide((STEPS,)))
    text = given((2, TEXT, CONFIG["text_embed_dim"]))
    positions = tuple(wide(table.shape) for table in network.positions(LATENTS))
    place = given((), jnp.int32)
    with tracing(kind):
        return jax.jit(
            partial(denoise, network.predict, guided=True),
            out_shardings=whole,
            compiler_options=compiler_options(kind),
        ).lower(params, given(LATENTS), wide(LATENTS), table, text, positions, None, None, place, place)


def _lowered_attention(kind: str, found: Sequence[Any], blocks: Blocks | None = None) -> jax.stages.Lowered:
    tokens = jax.ShapeDtypeStruct((1, HEADS, TOKENS, WIDTH), jnp.bfloat16, sharding=SingleDeviceSharding(found[0]))
    function = {"tpu": partial(flash, blocks=blocks) if blocks else flash, "gpu": fused}[kind]
    with tracing(kind):
        return jax.jit(function, compiler_options=compiler_options(kind)).lower(tokens, tokens, tokens)


CASES = {
    ATTENTION: Case(1, _lowered_attention),
    **{
        tried(queries, together): Case(1, partial(_lowered_attention, blocks=Blocks(queries, KEYS, together)))
        for together, several in EDGES.items()
        for queries in several
    },
    ONE_CHIP: step(),
    MESH: step((2, 1, 4)),
    SHALLOW: step((2, 1, 4), layers=4),
    **{name: step(mesh) for name, mesh in OTHER_MESHES.items()},
}
