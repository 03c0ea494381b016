"""A process of its own for the suite: put a clip through once, and print what that took beyond what was there."""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from twinvae.bench.resident import allocated, resident

# glibc then gives large blocks back when they are freed, and takes new ones that were not touched before.
ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m suites.memory.resident", description=__doc__)
    for name in ("backend", "preset", "dtype", "operation"):
        parser.add_argument(name)
    parser.add_argument("shape", type=json.loads, help="of the input, such as [1, 2, 12, 20, 16]")
    parser.add_argument("--compile", action="store_true", help="print what the compiler says, and run nothing")
    given = parser.parse_args()
    import twinvae

    vae = twinvae.load(given.backend, preset=given.preset, dtype=given.dtype)
    clip = np.random.default_rng(0).uniform(-1, 1, given.shape).astype(given.dtype)
    print(json.dumps(of_torch(vae, given.operation, clip) if given.backend == "torch" else of_jax(vae, given, clip)))


def of_torch(vae: Any, operation: str, clip: np.ndarray) -> dict[str, float]:
    run = vae.decode if operation == "decode" else vae.encode
    with resident() as found:
        run(clip)
    return found


def of_jax(vae: Any, given: argparse.Namespace, clip: np.ndarray) -> dict[str, float]:
    """The clip as one program, with the compiler's word beside what is measured."""
    import jax

    from twinvae.bench.aot.tpu_compiler import compiled_program

    lowered = (vae.lower_decode if given.operation == "decode" else vae.lower_encode)(clip.shape)
    program, outcome = compiled_program(lowered)
    said = {
        "peak": outcome.peak_bytes,
        "predicted above idle": outcome.peak_bytes - outcome.argument_bytes,
        "compiling": outcome.seconds,
    }
    if given.compile:
        return said
    arguments = jax.block_until_ready((vae.params, jax.numpy.asarray(clip)))
    device = jax.devices()[0]
    with resident() if device.platform == "cpu" else allocated(device) as found:
        jax.block_until_ready(program(*arguments))
    return said | found


if __name__ == "__main__":
    main()
