"""Denoising's programs by a TPU's and a GPU's compiler: do they fit, what is sent, and does depth cost compiling?

They are large: `pytest suites/generation --aot v6e` (or h100) compiles what has changed, in some minutes each (seconds
for a GPU), and keeps the answers in `baselines/tpu-v6e-aot/generation.jsonl`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import pytest

from suites.generation.cases import ATTENTION as ALONE
from suites.generation.cases import EDGES, KEYS, LAYERS, MESH, SHALLOW, TOKENS, tried
from suites.generation.program_bars import ATTENTION, COLLECTIVES, DEPTH, EDGE, FITTING, FLAT, PADDED, PEAK, PEAKS, SENT
from suites.generation.programs import CASES, missing_for
from twinvae.bench.aot.compilers import chip_of, compiler_version
from twinvae.bench.aot.programs import Answer, Compiler, Store, told
from twinvae.bench.aot.tpu_compiler import Outcome, compiled_program, failed
from twinvae.bench.collectives import collectives
from twinvae.jax.attention import products
from twinvae.jax.chips import CHIPS
from twinvae.jax.compiling import compiler_options

JUDGED = ("v6e", "h100")
IN_A_BLOCK = 2  # loops, of steps and of blocks

pytestmark = pytest.mark.compiles


@pytest.fixture(autouse=True)
def _effort() -> None:
    """Programs are compiled as users have them, with all effort (see the suites' fixture of the same name)."""


def asked(options):
    """On the platforms of compilers alone."""
    chosen = chip_of(options.platform) in JUDGED and "bfloat16" in options.dtypes
    return [{"dtype": "bfloat16"}] if chosen else []


def steps(options):
    return [{"case": case} | row for row in asked(options) for case in PEAKS]


def on_meshes(options):
    return [{"case": case} | row for row in asked(options) for case in COLLECTIVES]


@pytest.fixture(scope="module")
def chip(options) -> str:
    return str(chip_of(options.platform))


@pytest.fixture(scope="module")
def ask(options, chip) -> Callable[[str], Answer]:
    """`ask(case)`: what the compiler says of a program; recalled where it has not changed."""
    if reason := missing_for(chip):
        pytest.skip(reason)
    store = Store(options.baseline_dir / options.platform / "generation.jsonl")
    settings = compiler_options(CHIPS[chip].kind)

    def ask(name: str) -> Answer:
        compiled_for, lowered = CASES[name].lowered_for(chip)
        compiler = Compiler(store, compiled_for, compiler_version(chip), options.compiles_all, compiled, settings)
        return compiler.ask(name, lowered)

    return ask


def compiled(lowered: jax.stages.Lowered) -> Outcome:
    """What a compiler says of a program, the bytes of what it sends in each block, and processors' time."""
    start = time.process_time()
    try:
        program, outcome = compiled_program(lowered)
    except jax.errors.JaxRuntimeError as error:
        return failed(str(error), time.process_time() - start)
    taken, sent = time.process_time() - start, collectives(program.as_text(), inside=IN_A_BLOCK)
    return outcome._replace(counts={kind: one.bytes for kind, one in sorted(sent.items())}, seconds=taken)


@pytest.fixture
def how(chip) -> str:
    return f"pytest suites/generation --aot {chip}"


@pytest.mark.cases("case, dtype", steps)
def test_a_step_fits(case, dtype, how, ask, record):
    answer = ask(case)
    peak = told(how, [answer], lambda: answer.program.peak_bytes / 2**30)
    record(case=case, metric=PEAK, mode="jit", dtype=dtype, **PEAKS[case][PEAK].fields, **peak)


@pytest.mark.cases("case, dtype", on_meshes)
def test_devices_send_weights_and_exchange_tokens_for_heads_and_nothing_else_in_a_block(case, dtype, how, ask, record):
    answer = ask(case)
    sent = told(how, [answer], lambda: sum(answer.program.counts.values()) / 1e6)
    record(case=case, metric=SENT, mode="jit", dtype=dtype, **COLLECTIVES[case][SENT].fields, **sent)


@pytest.mark.cases("dtype", asked)
def test_attention_takes_no_padding_in_memory(dtype, chip, how, ask, record):
    answer = ask(ALONE)
    values: dict[str, dict[str, object]] = {PEAK: told(how, [answer], lambda: answer.program.peak_bytes / 2**30)}
    if CHIPS[chip].kind == "tpu":  # of cuDNN's kernel it is not known
        values[PADDED] = {"value": products(TOKENS, TOKENS) / TOKENS**2}
    for metric, value in values.items():
        record(case=ALONE, metric=metric, mode="jit", dtype=dtype, **ATTENTION[metric].fields, **value)


def of_blocks(options):
    kernel = CHIPS[JUDGED[0]].kind == getattr(CHIPS.get(str(chip_of(options.platform))), "kind", None)
    return [{"together": together} | row for row in asked(options) for together in EDGES if kernel]


@pytest.mark.cases("together, dtype", of_blocks)
def test_blocks_larger_than_the_table_s_fit(together, dtype, how, ask, record):
    answers = {queries: ask(tried(queries, together)) for queries in EDGES[together]}
    most = told(how, [*answers.values()], lambda: max(n for n, one in answers.items() if one.program.fits))
    record(case=f"attention, {KEYS} keys of a block, {together} together", metric=EDGE, mode="jit", dtype=dtype,
           **FITTING[EDGE].fields, **most)  # fmt: skip


@pytest.mark.cases("dtype", asked)
def test_more_blocks_take_no_longer_to_compile(dtype, how, ask, record):
    answers = [ask(name) for name in (MESH, SHALLOW)]
    ratio = told(how, answers, lambda: answers[0].program.seconds / answers[1].program.seconds)
    record(case=f"{LAYERS} blocks", metric=DEPTH, mode="jit", dtype=dtype, **FLAT[DEPTH].fields, **ratio)
