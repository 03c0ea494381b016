"""The programs of denoising that compilers are asked for: CogVideoX1.5-5B at 81 frames, and its attention alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    HEADS,
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
)  # fmt: skip
from twinvae.bench.aot.tpu_compiler import devices
from twinvae.jax.attention import flash
from twinvae.jax.compiling import compiler_options, tracing_for
from twinvae.jax.tokens import make_token_mesh


class Case(NamedTuple):
    """A program.

    Args:
        topology: what it is compiled for.
        lower: makes it.
    """

    topology: str
    lower: Callable[[str], jax.stages.Lowered]


@contextmanager
def tracing_for_tpu() -> Iterator[None]:
    """Programs for a TPU that are told apart by what they compute: a kernel's text holds the lines of its source."""
    before = jax.config.values["jax_traceback_in_locations_limit"]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        with tracing_for("tpu"):
            yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def step(topology: str, mesh: tuple[int, int, int] | None = None, layers: int = LAYERS) -> Case:
    """Denoising with guidance, on one chip or on a mesh."""
    return Case(topology, partial(_lowered_step, mesh=mesh, layers=layers))


def _lowered_step(topology: str, mesh: tuple[int, int, int] | None, layers: int) -> jax.stages.Lowered:
    found = devices(topology)
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
    with tracing_for_tpu():
        return jax.jit(
            partial(denoise, network.predict, guided=True),
            out_shardings=whole,
            compiler_options=compiler_options("tpu"),
        ).lower(params, given(LATENTS), wide(LATENTS), table, text, positions, None, None, place, place)


def attention_alone(topology: str) -> Case:
    return Case(topology, _lowered_attention)


def _lowered_attention(topology: str) -> jax.stages.Lowered:
    tokens = jax.ShapeDtypeStruct(
        (1, HEADS, TOKENS, WIDTH), jnp.bfloat16, sharding=SingleDeviceSharding(devices(topology)[0])
    )
    with tracing_for_tpu():
        return jax.jit(flash, compiler_options=compiler_options("tpu")).lower(tokens, tokens, tokens)


CASES = {
    ATTENTION: attention_alone("v6e:2x2"),
    ONE_CHIP: step("v6e:2x2"),
    MESH: step("v6e:2x4", (2, 1, 4)),
    SHALLOW: step("v6e:2x4", (2, 1, 4), layers=4),
    **{name: step("v6e:2x4", mesh) for name, mesh in OTHER_MESHES.items()},
}
