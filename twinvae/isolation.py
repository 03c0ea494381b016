"""What calling somebody's code must not change: the settings of this process, put back whatever raises."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put back the environment, and the settings of NumPy, JAX and torch where they are loaded, at the end.

    What is loaded inside of the block has its settings of the beginning where it was set by then, else none to go
    back to; what sits in threads is not reached.
    """
    with ExitStack() as undo:
        for keep in (_process, _numpy, _jax, _torch):
            undo.callback(keep())
        yield


def _process() -> Callable[[], None]:
    environment, folder, filters = dict(os.environ), os.getcwd(), list(warnings.filters)
    streams = sys.stdin, sys.stdout, sys.stderr
    recursion, mask = sys.getrecursionlimit(), os.umask(0)
    os.umask(mask)

    def restore() -> None:
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        os.chdir(folder)
        os.umask(mask)
        if list(warnings.filters) != filters:
            warnings.filters[:] = filters  # type: ignore[index]  # a list, which typeshed calls a sequence
        sys.stdin, sys.stdout, sys.stderr = streams
        sys.setrecursionlimit(recursion)

    return restore


def _numpy() -> Callable[[], None]:
    errors, random, printing = np.geterr(), np.random.get_state(), np.get_printoptions()

    def restore() -> None:
        np.seterr(**errors)
        np.random.set_state(random)
        np.set_printoptions(**printing)

    return restore


def _jax() -> Callable[[], None]:
    if "jax" not in sys.modules:
        return lambda: None
    config = sys.modules["jax"].config
    before = dict(config.values)

    def restore() -> None:
        for name, value in config.values.items():
            if name in before and value != before[name]:
                config.update(name, before[name])

    return restore


def _torch() -> Callable[[], None]:
    if "torch" not in sys.modules:
        return lambda: None
    torch: Any = sys.modules["torch"]
    settings = (
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.get_default_device, torch.set_default_device),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.is_grad_enabled, torch.set_grad_enabled),
        (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (torch.get_rng_state, torch.set_rng_state),
    )
    before = [(get, set_, get()) for get, set_ in settings]

    def restore() -> None:
        for get, set_, value in before:
            now = get()
            if not (torch.equal(now, value) if isinstance(value, torch.Tensor) else now == value):
                set_(value)

    return restore
