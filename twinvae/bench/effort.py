"""How much work compilers put into a small model: little, because compiling is most of what its tests take."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

import jax
import torch
from jax._src import compiler

# The XLA program stays as it is; its kernels come from XLA's older emitters, which compile in half the time.
QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}

_OPTIONS = compiler.get_compile_options


@contextmanager
def little_effort() -> Iterator[None]:
    """On a CPU: kernels without LLVM's optimisations, and one thread for PyTorch, whose pool costs more than it brings.

    An encoder compiles in a third of the time. Nowhere else does this change anything.
    """
    if jax.default_backend() != "cpu":
        yield
        return
    threads, before = torch.get_num_threads(), jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    torch.set_num_threads(1)
    try:
        # jax.jit takes such options too, but a backend's own calls of it are not the suites' to change.
        with mock.patch.object(compiler, "get_compile_options", _quick_options if _knows_quick() else _OPTIONS):
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
        torch.set_num_threads(threads)


def quick_environment() -> dict[str, str]:
    """The same for a process that is yet to be started."""
    if jax.default_backend() != "cpu":
        return {}
    flags = [f"--{name}={str(value).lower()}" for name, value in QUICK.items()] if _knows_quick() else []
    given = os.environ.get("XLA_FLAGS", "").split()
    return {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": " ".join([*given, *flags]), "OMP_NUM_THREADS": "1"}


def _quick_options(*arguments: Any, env_options_overrides: dict[str, Any] | None = None, **rest: Any) -> Any:
    return _OPTIONS(*arguments, env_options_overrides=QUICK | (env_options_overrides or {}), **rest)


@cache
def _knows_quick() -> bool:
    """Whether this version of XLA has the options."""
    try:
        jax.jit(lambda: 0, compiler_options=QUICK).lower().compile()
    except (jax.errors.JaxRuntimeError, ValueError):
        return False
    return True
