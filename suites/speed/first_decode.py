"""A process of its own for the suite: load a small model, decode for the first time, print how long that took.

JAX's persistent compilation cache is what `JAX_COMPILATION_CACHE_DIR` names.
"""

from __future__ import annotations

import argparse
import json
import time


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m suites.speed.first_decode", description=__doc__)
    parser.add_argument("backend", help="the backend to decode with")
    parser.add_argument("preset", help="the preset of its seeded weights")
    parser.add_argument("dtype", help="of weights and activations")
    given = parser.parse_args()
    began = time.perf_counter()
    import jax
    import numpy as np

    import twinvae

    vae = twinvae.load(given.backend, preset=given.preset, dtype=given.dtype)
    latents = np.zeros((1, 3, 4, 6, vae.config.latent_channels), np.float32)
    start = time.perf_counter()
    jax.block_until_ready(vae.decode(latents))
    print(json.dumps({"first decode": time.perf_counter() - start, "process": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
