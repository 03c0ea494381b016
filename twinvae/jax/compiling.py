"""How programs are compiled where the compiler's own choice is not the best one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache

import jax

# jaxlib 0.10.2 gives a CPU's convolutions, reductions and matrix products to YNNPACK. Eigen's convolutions, which it
# uses otherwise, take 10 to 15 % less time in the shapes of this VAE (3x3, 128 and 256 channels, 2 cores, AVX-512), and
# round better. XLA's own reductions are another matter: encoding spends a third of its time in those of GroupNorm.
CPU = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_DOT"}
# libtpu 0.0.42.1 unrolls a convolution as far as the vector memory that it may use lets it: with 32 MiB, a v6e's own
# choice, a ResNet block of 512 channels takes over 200 s to compile on 2 cores, with 16 MiB, a v5e's, 32 s, and the
# cycles that the compiler reckons with are the same within 1 %.
TPU = {"xla_tpu_scoped_vmem_limit_kib": "16384"}
# Left to itself, XLA gives cuDNN every 3-D convolution channel-first, and frames are transposed before and after each.
# Of bfloat16 alone: tensor cores take that channel-last, and what cuDNN has for float32 without TF32 is not known.
GPU = {"xla_gpu_force_conv_nhwc": "True"}
OPTIONS = {"cpu": CPU, "tpu": TPU, "gpu": GPU}

_platform: ContextVar[str | None] = ContextVar("platform", default=None)


@contextmanager
def tracing_for(platform: str | None) -> Iterator[None]:
    """What is traced within is compiled for a platform; for the default device's where it is None."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def traced_for() -> str:
    """The platform that is being traced for, as devices spell it.

    (`lax.platform_dependent` would leave a `case` in the programs of every other platform.)
    """
    return _canonical(_platform.get())


def on_gpu(platform: str | None = None) -> bool:
    """Whether a platform, or else the one that is being traced for, takes the forms that are for GPUs."""
    return (_canonical(platform) if platform else traced_for()) == "gpu"


def _canonical(platform: str | None) -> str:
    """A platform as devices spell it: lowering says "cuda" for what is "gpu" there."""
    platform = platform or jax.default_backend()
    return "gpu" if platform == "cuda" else platform


@cache
def compiler_options(platform: str | None = None, dtype: str = "bfloat16") -> dict[str, str]:
    """Options of `jax.jit` for a platform, or for the default device's; none where this XLA does not know them."""
    platform = _canonical(platform)
    options = {} if platform == "gpu" and dtype != "bfloat16" else OPTIONS.get(platform, {})
    if platform != jax.default_backend():  # lowered here, compiled elsewhere: nothing to try them on
        return options
    try:
        jax.jit(lambda: 0, compiler_options=options).lower().compile()
    except (jax.errors.JaxRuntimeError, ValueError):
        return {}
    return options
