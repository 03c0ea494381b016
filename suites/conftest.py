"""What every suite's tests can ask for: models, clips, and places to put measurements."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

import twinvae
from twinvae.bench.clips import Clip, filmed_clip, read_clip, synthetic_clip
from twinvae.bench.debugging import traced
from twinvae.bench.effort import little_effort
from twinvae.bench.models import TRAINED
from twinvae.bench.options import OPTIONS, Model, Options
from twinvae.bench.plugin import axis_fields, keep, run_file, suite_of
from twinvae.bench.records import Record
from twinvae.jax.mappings import SHARE, make_room
from twinvae.registry import REFERENCE

Load = Callable[[str, Model, str, str], twinvae.VideoVAE]


@pytest.fixture(scope="session")
def options(pytestconfig: pytest.Config) -> Options:
    return pytestconfig.stash[OPTIONS]


@pytest.fixture(autouse=True)
def _effort(request: pytest.FixtureRequest) -> Iterator[None]:
    """The full architecture is compiled and run as users do it, everything else with little effort."""
    model = getattr(request.node, "callspec", None) and request.node.callspec.params.get("model")
    with contextlib.nullcontext() if model and model.is_large else little_effort():
        yield
    with warnings.catch_warnings(action="ignore"):  # between tests it costs nobody anything
        make_room(SHARE / 2)  # so that none is dropped within a test, which may count them


class Shelf(dict[tuple[Any, ...], twinvae.VideoVAE]):
    """VAEs that are loaded, and how they were."""

    def __init__(self) -> None:
        super().__init__()
        self._as_loaded: dict[tuple[Any, ...], dict[str, Any]] = {}

    def __setitem__(self, key: tuple[Any, ...], vae: twinvae.VideoVAE) -> None:
        super().__setitem__(key, vae)
        self._as_loaded[key] = dict(vars(vae))

    def __delitem__(self, key: tuple[Any, ...]) -> None:
        super().__delitem__(key)
        del self._as_loaded[key]  # which holds its weights as well

    def restore(self) -> None:
        for key, vae in self.items():
            vars(vae).clear()
            vars(vae).update(self._as_loaded[key])


@pytest.fixture(scope="session")
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture(autouse=True)
def _as_loaded(shelf: Shelf) -> Iterator[None]:
    """What a test sets of a VAE, the reference or the one under test, is set back, whatever raised in it."""
    yield
    shelf.restore()


@pytest.fixture(scope="session")
def load(pytestconfig: pytest.Config, shelf: Shelf, options: Options) -> Load:
    """`load(backend, model, mode, dtype)`: small models stay loaded, of large ones a backend's and the reference."""
    say = pytestconfig.pluginmanager.get_plugin("terminalreporter")

    def load(backend: str, model: Model, mode: str, dtype: str) -> twinvae.VideoVAE:
        mode = "eager" if backend == REFERENCE else mode
        key = (model.is_large, backend == REFERENCE, backend, model.label, mode, dtype)
        if key not in shelf:
            if model.is_large:
                for other in [other for other in shelf if other[:2] == key[:2]]:
                    del shelf[other]
                gc.collect()
                jax.clear_caches()
                say.write_line(f"\nloading {model.label} into {backend} in {dtype}; its tests take a minute or two")
            vae = twinvae.load(backend, **model.source, dtype=dtype, jit=mode == "jit")
            shelf[key] = options.mesh.put(vae) if options.mesh and backend != REFERENCE else vae
        return shelf[key]

    return load


@pytest.fixture
def vae(
    load: Load, backend: str, model: Model, mode: str, dtype: str, request: pytest.FixtureRequest
) -> Iterator[twinvae.VideoVAE]:
    """The VAE under test, as it was loaded."""
    vae = load(backend, model, mode, dtype)
    with traced(request.config, request.node.name, vae):
        yield vae


@pytest.fixture(scope="session")
def once() -> Callable[[Any, Callable[[], Any]], Any]:
    """`once(key, compute)`: what `compute()` gave when the key was first asked for."""
    results: dict[Any, Any] = {}

    def once(key: Any, compute: Callable[[], Any]) -> Any:
        if key not in results:
            results[key] = _read_only(compute())
        return results[key]

    return once


def _read_only(value: Any) -> Any:
    """What later tests take, so that no backend writes into it."""
    for part in value.values() if isinstance(value, dict) else (value,):
        if isinstance(part, np.ndarray):
            part.flags.writeable = False
    return value


@pytest.fixture(scope="session")
def clip(options: Options) -> Callable[[int, int, int], Clip]:
    """`clip(frames, height, width)`: that many frames of --clip, or of the synthetic clip."""

    def clip(frames: int, height: int, width: int) -> Clip:
        if options.clip is None:
            return synthetic_clip(frames, height, width, options.seed)
        return read_clip(options.clip, frames, height, width)

    return clip


@pytest.fixture(scope="session")
def film(options: Options) -> Callable[[int, int, int], Clip]:
    """`film(frames, height, width)`: the same of --clip, or of a picture that a camera moves over."""

    def film(frames: int, height: int, width: int) -> Clip:
        return (filmed_clip if options.clip is None else partial(read_clip, options.clip))(frames, height, width)

    return film


@pytest.fixture(scope="session")
def trained(load: Load) -> Callable[[str, str], twinvae.VideoVAE]:
    """`trained(backend, dtype)`: the preset that was trained, as programs."""
    return lambda backend, dtype: load(backend, TRAINED, "jit", dtype)


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`record(metric=, value=, case=, ...)`: a Record's fields, less those that the test's parameters give.

    A value past its limit fails the test when its body is done.
    """
    item = request.node

    def record(**fields: Any) -> None:
        known = {"suite": suite_of(item.path), "test": item.nodeid} | axis_fields(item)
        keep(item, Record(**(known | fields)))

    return record


@pytest.fixture
def exhibit(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`exhibit(name, arrays, caption)`: arrays that a figure of the page needs."""
    item = request.node

    def exhibit(name: str, arrays: dict[str, np.ndarray], caption: str = "") -> None:
        fields = {axis: value for axis, value in axis_fields(item).items() if axis != "preset"}
        run_file(item).exhibit(name, arrays, caption=caption, **fields)

    return exhibit
