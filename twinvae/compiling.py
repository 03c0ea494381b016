"""How programs are compiled where the compiler's own choice is not the fastest one."""

from __future__ import annotations

from functools import cache

import jax

# jaxlib 0.10.2 gives a CPU's convolutions, reductions and matrix products to YNNPACK. Eigen's convolutions, which it
# uses otherwise, take 10 to 15 % less time in the shapes of this VAE (3x3, 128 and 256 channels, 2 cores, AVX-512), and
# round better. XLA's own reductions are another matter: encoding spends a third of its time in those of GroupNorm.
CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_DOT"}


@cache
def compiler_options(platform: str | None = None) -> dict[str, str]:
    """Options of `jax.jit` for a platform, or for the default device's; none where this XLA does not know them."""
    options = CPU if (platform or jax.default_backend()) == "cpu" else {}
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except (jax.errors.JaxRuntimeError, ValueError):
        return {}
    return options
