"""Steps of the full architecture by compilers: what they take of a chip's memory, with remat and without, by batch.

`pytest suites/training --aot v6e` compiles what has changed, and keeps the answers in
`baselines/tpu-v6e-aot/training.jsonl`; so does `--aot h100`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from suites.training import cases, programs
from suites.training.bars import PEAK, PROGRAMS, SHARE
from twinvae.bench.aot.compilers import chip_of, compiler_version, platform_of, target
from twinvae.bench.aot.programs import Answer, Compiler, Store, told
from twinvae.bench.aot.tpu_compiler import MEMORY, compiled, compiled_within
from twinvae.jax.chips import CHIPS
from twinvae.jax.compiling import compiler_options

GB = 1e9

pytestmark = pytest.mark.compiles


@pytest.fixture(autouse=True)
def _effort() -> None:
    """Programs are compiled as users have them, with all effort (see the suites' fixture of the same name)."""


@pytest.fixture(scope="module")
def chip(options) -> str:
    return chip_of(options.platform)


@pytest.fixture(scope="module")
def ask(options, chip) -> Callable[[int, bool], Answer]:
    """`ask(clips, remat)`: what the compiler says that a step needs; recalled where it has not changed."""
    spec = CHIPS[chip]
    compiler = Compiler(
        Store(options.baseline_dir / platform_of(chip) / "training.jsonl"), target(chip), compiler_version(chip),
        options.compiles_all,
        # A chip without memory: what is asked for is said before machine code is made, within 0.4 % (see `sized`).
        partial(compiled, options={MEMORY: "1"}) if spec.kind == "tpu" else partial(compiled_within, spec.usable_bytes),
        compiler_options(spec.kind),
    )  # fmt: skip
    answers: dict[tuple[int, bool], Answer] = {}

    def ask(clips: int, remat: bool) -> Answer:
        if (clips, remat) not in answers:
            recipe = cases.large(clips, remat)
            answers[clips, remat] = compiler.ask(programs.name(recipe), programs.lowered(recipe, chip))
        return answers[clips, remat]

    return ask


@pytest.mark.cases("clips, remat, backend, dtype", cases.asked)
def test_a_step_takes_no_more_memory_than_it_did(clips, remat, backend, dtype, ask, chip, record):
    answer = ask(clips, remat)
    fields = {"case": f"a step, batch {clips}, {'remat' if remat else 'all kept'}", "mode": "jit",
              "preset": cases.LARGE, "shape": f"{cases.FRAMES}x{cases.SIDE}x{cases.SIDE}"}  # fmt: skip
    how = f"pytest suites/training --aot {chip}"
    peak = told(how, [answer], lambda: answer.program.peak_bytes / GB)
    record(**fields, metric=PEAK, **PROGRAMS[PEAK].fields, **peak)
    if remat and clips == 1:
        whole = ask(1, False)
        share = told(how, [answer, whole], lambda: answer.program.peak_bytes / whole.program.peak_bytes)
        record(**fields, metric=SHARE, **PROGRAMS[SHARE].fields, **share)
