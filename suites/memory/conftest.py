"""What the memory tests share: the compiler of the chosen platform, and the programs put to it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import twinvae
from suites.memory.cases import LEANEST, SHARED_BY, Case
from suites.memory.lowered import Programs, Progress
from suites.memory.pieces import Piece, pieces
from suites.memory.stores import compiler_for, sizer_for
from twinvae.bench.aot.compilers import chip_of
from twinvae.bench.aot.programs import Compiler
from twinvae.bench.options import Model, Options
from twinvae.bench.plugin import skip_without_compiler
from twinvae.jax.kept import keeping


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without its compiler there is no such platform: its tests are skipped, and what was measured of it stays."""
    skip_without_compiler(config, items, Path(__file__).parent)


@pytest.fixture(autouse=True)
def _effort() -> None:
    """Programs are compiled as users have them, with all effort (see the suites' fixture of the same name)."""


@pytest.fixture(autouse=True)
def _kept_programs() -> Iterator[None]:
    """What compiling takes and gives is measured here (see the instrument's fixture of the same name)."""
    with keeping(None):
        yield


@pytest.fixture(scope="session")
def chip(options: Options) -> str:
    return chip_of(options.platform)


@pytest.fixture(scope="session")
def compiler(options: Options, chip: str) -> Compiler:
    return compiler_for(chip, options.baseline_dir, large=options.compiles_all)


@pytest.fixture(scope="session")
def programs_of(request: pytest.FixtureRequest, chip: str, compiler: Compiler) -> Callable[[Model, str, str], Programs]:
    """`programs_of(model, backend, dtype)`: with --aot, told on the terminal how far compiling has come."""
    shelf: dict[tuple[str, str, str], Programs] = {}
    say = request.config.pluginmanager.get_plugin("terminalreporter").write_line

    def programs_of(model: Model, backend: str, dtype: str) -> Programs:
        key = (model.label, backend, dtype)
        if key not in shelf:
            vae = twinvae.load(backend, **model.source, dtype=dtype, memory_budget=LEANEST)
            shelf[key] = Programs(vae, model.label, chip, compiler)
        return shelf[key]

    if compiler.large:
        say(f"\nlowering what is asked of the compiler for {chip}, to see what has changed")
        names = []
        for item in request.session.items:
            row = item.callspec.params if hasattr(item, "callspec") else {}
            if isinstance(row.get("case"), Case):  # pytest has a mark of its own where there is no row
                programs = programs_of(row["model"], row["backend"], row["dtype"])
                names += [
                    programs.name(row["case"].operation, piece, devices)
                    for piece, devices in asked_of(row["case"], row["model"], row["dtype"], item.originalname)
                    if programs.needs_compiling(row["case"].operation, piece, devices)
                ]
        progress = Progress(list(dict.fromkeys(names)), compiler.store, lambda line: say(f"\n{line}"))
        for programs in shelf.values():
            programs.starts = progress.starts
    return programs_of


def asked_of(case: Case, model: Model, dtype: str, test: str) -> list[tuple[Piece, int]]:
    """The programs that a test asks for, and on how many devices each."""
    found = [(piece, 1) for piece in pieces(case, model.config, dtype)]
    return found + ([(piece, SHARED_BY) for piece, _ in found] if "chips" in test else [])


@pytest.fixture
def programs(programs_of: Callable[[Model, str, str], Programs], model: Model, backend: str, dtype: str) -> Programs:
    gc.collect()
    return programs_of(model, backend, dtype)


@pytest.fixture(scope="session")
def sizes_of(
    options: Options, chip: str, compiler: Compiler, programs_of: Callable[[Model, str, str], Programs]
) -> Callable[[Model, str, str], Programs]:
    """`sizes_of(model, backend, dtype)`: the same programs, of which it is enough to know what they need."""
    shelf: dict[tuple[str, str, str], Programs] = {}

    def sizes_of(model: Model, backend: str, dtype: str) -> Programs:
        key = (model.label, backend, dtype)
        if key not in shelf:
            vae = programs_of(model, backend, dtype).vae
            shelf[key] = Programs(vae, model.label, chip, sizer_for(chip, options.baseline_dir, compiler))
        return shelf[key]

    return sizes_of


@pytest.fixture
def sizes(sizes_of: Callable[[Model, str, str], Programs], model: Model, backend: str, dtype: str) -> Programs:
    return sizes_of(model, backend, dtype)
