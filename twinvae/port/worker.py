"""The process in which a port runs: it answers requests over a pipe, until the pipe is closed.

Run as `python -m twinvae.port.worker <descriptor of the pipe> <name of the port>`.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from twinvae import arrays
from twinvae.isolation import undisturbed
from twinvae.port import objects
from twinvae.port.errors import PortError
from twinvae.port.source import Found, arguments, find

LAYERS_KEPT = 8


class Worker:
    """A port's objects by number, and what can be asked of them."""

    def __init__(self, name: str):
        self.name = name
        self.found: Found | None = None
        self.objects: dict[int, tuple[Any, str, bool]] = {}
        self.settings: dict[int, Any] = {}
        self.layers: dict[int, Any] = {}
        self.wrapped: dict[int, set[str]] = {}  # which of its operations gave what diffusers' class gives
        self.wrappers: dict[int, Any] = {}

    def open(self) -> dict[str, Any]:
        """What the port is, and what it declares."""
        self.found = find(self.name)
        builder = self.found.kind == "builder"
        takes = sorted(set(arguments(self.found.target).values())) if builder else []
        return {"kind": self.found.kind, "facts": self.found.facts, "takes": takes}

    def build(self, number: int, dtype: str, compile: bool, **given: Any) -> list[str]:
        """Make an object, and give the capabilities that it has by inspection."""
        with scope(dtype):
            target = objects.build(self.found or find(self.name), given | {"dtype": dtype})
        self.objects[number] = target, dtype, compile
        return objects.abilities(target)

    def run(self, number: int, operation: str, clip: np.ndarray, kind: str, settings: dict[str, Any]) -> Any:
        target, dtype, compile = self.objects[number]
        with scope(dtype, kind):
            self._settle(number, settings)
            out = objects.call(target, operation, clip, kind, compile)
            if hasattr(out, objects.GIVES[operation]):
                self.wrapped.setdefault(number, set()).add(operation)
            return objects.arrays_of(operation, out)

    def is_wrapper(self, number: int) -> bool:
        """Whether it stands in the place of a pipeline's VAE as it is, by what its calls gave and its config."""
        read = objects.read_by_pipelines(self.objects[number][0])
        return self.wrapped.get(number) == set(objects.GIVES) and "scaling_factor" in read

    def wrapper(self, number: int) -> dict[str, Any]:
        """Make its pipeline wrapper, and give what pipelines read of the config of that."""
        target, dtype, _ = self.objects[number]
        with scope(dtype):
            self.wrappers[number] = objects.wrapper_of(target)
        return objects.read_by_pipelines(self.wrappers[number])

    def call_wrapper(
        self, number: int, operation: str, clip: np.ndarray, state: np.ndarray | None, settings: dict[str, Any]
    ) -> Any:
        if number not in self.wrappers:  # its process has ended since
            self.wrapper(number)
        with scope(self.objects[number][1]):
            self._settle(number, settings)
            return objects.call_wrapper(self.wrappers[number], operation, clip, state)

    def save(self, number: int, folder: str) -> None:
        target, dtype, _ = self.objects[number]
        with scope(dtype):
            objects.guarded("save_pretrained", lambda: target.save_pretrained(folder))

    def traceable(self, number: int, operation: str, clip: np.ndarray) -> str:
        with scope(str(clip.dtype)):
            return objects.traceable(self.objects[number][0], operation, clip)

    def method(self, number: int, name: str, given: tuple[Any, ...], kind: str, settings: dict[str, Any]) -> Any:
        """Another of its methods, arrays in and out; what it yields comes as a list."""
        target, dtype, _ = self.objects[number]
        with scope(dtype):
            self._settle(number, settings)
            given = tuple(objects.as_kind(one, kind) if isinstance(one, np.ndarray) else one for one in given)

            def run() -> Any:
                out = getattr(target, name)(*given)
                return list(out) if hasattr(out, "__next__") else out

            return objects.nested(objects.guarded(name, run), arrays.to_numpy)

    def layer_of(
        self, number: int, layer: int, dtype: str, jit: bool, class_name: str, init: Any, tensors: Any
    ) -> list[int]:
        """Make a layer, and give the numbers of those that are kept."""
        build = self.objects[number][0].load_layer
        with scope(dtype):
            self.layers[layer] = objects.guarded(
                "load_layer", lambda: build(class_name, init, tensors, dtype=dtype, jit=jit)
            )
        while len(self.layers) > LAYERS_KEPT:
            del self.layers[next(iter(self.layers))]
        return list(self.layers)

    def layer_call(self, number: int, layer: int, dtype: str, kind: str, given: dict[str, Any]) -> Any:
        with scope(dtype):
            given = objects.nested(given, lambda array: objects.as_kind(array, kind))
            out = objects.guarded("the layer", lambda: self.layers[layer](**given))
            return objects.nested(out, arrays.to_numpy)

    def _settle(self, number: int, settings: dict[str, Any]) -> None:
        if self.settings.get(number) != settings:
            self.settings.pop(number, None)  # the port may refuse some after it has taken others
            objects.guarded("taking its settings", lambda: objects.settle(self.objects[number][0], settings))
            self.settings[number] = settings


def scope(dtype: str, kind: str = "") -> AbstractContextManager:
    """Where JAX computes float64, in a port that uses JAX or is given its arrays."""
    uses_jax = kind == "jax" or "jax" in sys.modules
    return arrays.dtype_scope(arrays.DTYPES[dtype]) if uses_jax else nullcontext()


def serve(connection: Connection, worker: Worker) -> None:
    """Answer until the pipe is closed; whoever the port forks answers nothing."""
    process = os.getpid()
    while True:
        try:
            request, given, dropped = connection.recv()
        except EOFError:
            return
        for number in dropped:
            for kept in (worker.objects, worker.wrapped, worker.wrappers):
                kept.pop(number, None)
        answer = _answer(worker, request, given)
        if os.getpid() != process:
            os._exit(0)
        connection.send(answer)


def _answer(worker: Worker, request: str, given: dict[str, Any]) -> tuple[str, Any]:
    try:
        # What a port sets when it is imported (XLA_FLAGS, say) is how it runs; what it sets later is undone.
        with nullcontext() if request == "open" else undisturbed():
            return "", getattr(worker, request)(**given)
    except PortError as error:
        return type(error).__name__, str(error)
    except ValueError as error:  # the port is none, or is named wrongly
        return "ValueError", str(error)
    except BaseException as error:
        return "PortGave", f"{request}: {type(error).__name__}: {error}"


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])), Worker(sys.argv[2]))
