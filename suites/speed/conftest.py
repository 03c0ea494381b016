"""What the speed tests share: groups measured once, and the hand-over to records and to pytest-benchmark."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from suites.speed.cases import PYTORCH, Contender, Group
from suites.speed.clock import replay
from suites.speed.contenders import input_of, load, out_of_memory, ready
from suites.speed.measure import Measured, measure
from twinvae import VideoVAE
from twinvae.bench.debugging import trace
from twinvae.bench.options import Model, Options
from twinvae.jax.kept import keeping

Values = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def _effort() -> None:
    """Programs are compiled and run as users have them, with all effort (see the fixture of the same name above)."""


@pytest.fixture(autouse=True)
def _kept_programs() -> Iterator[None]:
    """What compiling takes and gives is measured here (see the instrument's fixture of the same name)."""
    with keeping(None):
        yield


@pytest.fixture(scope="session", autouse=True)
def _compiled_anew() -> None:
    """Suites before this one may have compiled operations with little effort."""
    jax.clear_caches()


@pytest.fixture(scope="session")
def measured_group(request: pytest.FixtureRequest, options: Options) -> Callable[[Group], Measured]:
    """`measured_group(group)`: measured when first asked for, the contenders that were collected and PyTorch."""
    results: dict[Group, Measured] = {}
    shelf: dict[tuple[Any, ...], VideoVAE] = {}
    say = request.config.pluginmanager.get_plugin("terminalreporter")

    def vae_of(contender: Contender, group: Group) -> VideoVAE:
        model: Model = group.model
        if any(key[:2] != (model.label, group.dtype) for key in shelf):
            shelf.clear()
            gc.collect()
        key = (model.label, group.dtype, *contender)
        if contender.backend == PYTORCH.backend:
            key = (model.label, group.dtype, *PYTORCH)  # torch.compile works on the same model
        if key not in shelf:
            shelf[key] = load(contender, group)
        return shelf[key]

    def measured_group(group: Group) -> Measured:
        if group not in results:
            contenders = _collected(request.session, group)
            say.write_line(f"\nmeasuring {group}: {', '.join(map(str, contenders))}")
            results[group] = measure(group, contenders, options.seed, vae_of)
            for contender in contenders:  # when all has been measured, which a trace then cannot disturb
                if contender.backend != PYTORCH.backend and contender not in results[group].failures:
                    run = ready(vae_of(contender, group), contender, group, input_of(group, options.seed))
                    trace(request.config, f"{group} {contender}", run)
        return results[group]

    return measured_group


def _collected(session: pytest.Session, group: Group) -> list[Contender]:
    params = [item.callspec.params for item in session.items if hasattr(item, "callspec")]
    wanted = [Contender(p["backend"], p["mode"]) for p in params if p.get("group") == group]
    return list(dict.fromkeys([*wanted, PYTORCH]))


@pytest.fixture
def contender(backend: str, mode: str, model: Model, dtype: str) -> Contender:
    return Contender(backend, mode)


@pytest.fixture
def measured(measured_group: Callable[[Group], Measured], group: Group) -> Measured:
    return measured_group(group)


@pytest.fixture
def keep(
    record: Callable[..., None], benchmark: Any, group: Group, contender: Contender, measured: Measured
) -> Callable[..., None]:
    """`keep(case, values, seconds)`: records of a contender, and the times behind them to pytest-benchmark.

    Where there are none because the contender failed, its test fails with what it raised; running out of memory is a
    result.
    """

    def keep(case: str, values: Values, seconds: Any) -> None:
        for value in values:
            record(**{"case": case, "operation": group.operation, "shape": str(group.size)} | value)
        seconds = [one for one in seconds if np.isfinite(one)]
        if seconds and benchmark is not None:  # else pytest-benchmark was left out
            numbers = {value["metric"]: value["value"] for value in values}
            replay(benchmark, seconds, f"{group}, {case}", case=case, contender=str(contender), values=numbers)
        error = measured.failures.get(contender)
        missing = not values or any(value["value"] is None for value in values)
        if error is not None and missing and not out_of_memory(error):
            raise error

    return keep
