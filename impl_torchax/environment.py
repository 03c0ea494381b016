"""The TorchAx environment of this backend, and how a torch module is called in it; torch itself is left as it was."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import jax
import torch
import torch._decomp.decompositions_for_rng
import torch._refs

from impl_torchax.lowerings import LOWERINGS
from impl_torchax.token_lowerings import TOKEN_LOWERINGS

# A call puts JAX arrays in the place of the module's parameters, and the first one holds back what TorchAx does to
# torch: another thread must see neither half done.
_calling = threading.RLock()


@functools.cache
def environment() -> Any:
    """An environment of its own, so that neither the default one nor another user of TorchAx sees its lowerings."""
    # The environment draws a JAX random key, which must be no part of a program that happens to be traced.
    with _calling, _torch_unchanged(), jax.ensure_compile_time_eval():
        from torchax import tensor

        env = tensor.Environment()
    # TorchAx says "jax:0", a name that torch knows only after the renaming that `_torch_unchanged` holds back.
    tensor.Tensor.device = property(lambda _: torch.device(torch._C._get_privateuse1_backend_name(), 0))  # type: ignore[assignment]
    for operator, function in (LOWERINGS | TOKEN_LOWERINGS).items():
        env.override_op_definition(operator, _on_tensors(env, function))
    return env


def call(module: torch.nn.Module, params: dict[str, jax.Array], *args: Any, **kwargs: Any) -> Any:
    """Pure: a torch module's forward on JAX arrays, with `params` in the place of its own parameters.

    Args:
        module: may be on the meta device; it is left as it was, also when its forward fails.
        params: every parameter by its name in the module.
        args, kwargs: trees of JAX arrays, as are the results.
    """
    env = environment()
    # The precision: a TPU or GPU would otherwise multiply float32 in bfloat16 or TF32. The mode: inside a caller's
    # inference mode torch does not decompose convolutions and norms into the operators that have lowerings.
    with _calling, jax.default_matmul_precision("highest"), torch.inference_mode(False), env:
        out = torch.func.functional_call(
            module, env.j2t_iso(params), env.j2t_iso(args), env.j2t_iso(kwargs), strict=True
        )
        return env.t2j_iso(out)


def on_tensors(function: Any, *args: Any) -> Any:
    """A function of JAX arrays, on TorchAx tensors."""
    return _on_tensors(environment(), function)(*args)


def _on_tensors(env: Any, function: Any) -> Any:
    """A function of JAX arrays as one of TorchAx tensors."""

    def on_tensors(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = env.t2j_iso((args, kwargs))
        return env.j2t_iso(function(*args, **kwargs))

    return on_tensors


@contextmanager
def _torch_unchanged() -> Iterator[None]:
    """Hold back what importing TorchAx does to the process.

    It renames torch's private device to "jax", after which torch takes it for an accelerator that is present, and
    `torch.random.fork_rng()`, `torch.Stream()` and pinned memory fail; it turns off the fast path of attention, sets
    an environment variable, and puts decompositions of its own into the table that torch.compile reads. Nothing of it
    is needed here. Whoever uses TorchAx in the same process as well and imports it first keeps all of it.
    """
    tables = torch._decomp.global_decomposition_table
    kept = {kind: dict(table) for kind, table in tables.items()}
    try:
        with (
            patch.object(torch.utils, "rename_privateuse1_backend"),
            patch.object(torch, "_register_device_module"),
            patch.object(torch.backends.mha, "set_fastpath_enabled"),
            patch.dict(os.environ),
        ):
            yield
    finally:
        for kind, table in kept.items():
            tables[kind].clear()
            tables[kind].update(table)
