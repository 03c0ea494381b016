"""Programs are remembered by everything that they depend on; errors for lack of memory are told from all others."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path

import jax
import jax.numpy as jnp
import psutil
import pytest

from suites.memory.stores import compiler_for, sizer_for
from twinvae.bench.aot.compilers import chip_of, platform_of, sharding_on
from twinvae.bench.aot.libtpu import INSTALL, installed
from twinvae.bench.aot.programs import Answer, Compiler, Program, Store, expected_seconds, fingerprint
from twinvae.bench.aot.refusal import refusal
from twinvae.bench.aot.tpu_compiler import (
    MEMORY,
    CompileError,
    Outcome,
    compiled,
    failed,
    needed_bytes,
    refused_topology,
    sized,
)
from twinvae.jax.chips import CHIPS, TPUS
from twinvae.jax.compiling import TPU, compiler_options
from twinvae.jax.memory import usable_bytes

GIB = 2**30
# As libtpu 0.0.42.1 words them.
TEMPORARIES = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (32.00G) exceeds "
    "available HBM (31.25G)."
)
USED = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 40.28G of 31.25G hbm."


def lower(scale: float = 2.0, size: int = 8):
    return jax.jit(lambda x: scale * x).lower(jax.ShapeDtypeStruct((size,), jnp.float32))


ANSWER = Outcome(True, 100, 12.34)


class Counting:
    """A compiler that counts."""

    def __init__(self, answer: Outcome = ANSWER):
        self.answer, self.calls = answer, 0

    def __call__(self, lowered) -> Outcome:
        self.calls += 1
        return self.answer


def compiler(tmp_path, work, large: bool = True, version: str = "libtpu 1", topology: str = "v6e:2x2") -> Compiler:
    return Compiler(Store(tmp_path / "tpu-v6e-aot" / "programs.jsonl"), topology, version, large, work)


@pytest.mark.parametrize(
    "other", [("b", "c", "t"), ("a", "c2", "t"), ("a", "c", "t2"), ("ac", "", "t"), ("a", "c", "t", {"limit": "16"})]
)
def test_a_fingerprint_changes_with_program_compiler_its_options_and_topology(other):
    assert fingerprint("a", "c", "t") == fingerprint("a", "c", "t") != fingerprint(*other)


def test_the_same_program_lowered_twice_from_other_lines_is_the_same():
    def again():
        return jax.jit(lambda x: 2.0 * x).lower(jax.ShapeDtypeStruct((8,), jnp.float32))

    one = Compiler(None, "t", "v")
    assert one.mark(lower()) == one.mark(again()) != one.mark(lower(3.0))
    assert one._replace(options={"limit": "16"}).mark(lower()) != one.mark(lower())


def test_a_program_lowered_for_a_tpu_has_its_options_wherever_that_is_done():
    assert compiler_options("tpu") == TPU
    assert compiler_options("rocm") == {}


def test_an_unchanged_program_is_compiled_once_and_recalled_by_the_next_process(tmp_path):
    work = Counting()
    first = compiler(tmp_path, work).ask("decode", lower())
    again = compiler(tmp_path, work, large=False).ask("decode", lower())
    assert (first.how, again.how, work.calls) == ("compiled", "recalled", 1)
    assert again.program == first.program
    assert str(first) == "compiled in 12 s"
    assert str(again).startswith("recalled (20")


def test_a_program_is_recalled_under_another_name(tmp_path):
    work = Counting()
    compiler(tmp_path, work).ask("decode", lower())
    assert compiler(tmp_path, work).ask("decode, renamed", lower()).how == "recalled"


@pytest.mark.parametrize("changed", ["program", "version", "topology"])
def test_a_changed_large_program_needs_compiling_and_keeps_what_it_was(changed, tmp_path):
    work = Counting()
    compiler(tmp_path, work).ask("decode", lower())
    other = (
        {"version": "libtpu 2"} if changed == "version" else {"topology": "v5e:2x2"} if changed == "topology" else {}
    )
    program = lower(3.0) if changed == "program" else lower()
    answer = compiler(tmp_path, work, large=False, **other).ask("decode", program)
    assert (answer.how, answer.known, work.calls) == ("needs compiling", False, 1)
    assert answer.program.peak_bytes == 100
    assert str(answer) == "needs compiling"


def test_a_small_program_is_compiled_each_time_and_leaves_no_file(tmp_path):
    work = Counting()
    for _ in range(2):
        assert compiler(tmp_path, work, large=False).ask("layer", lower(), small=True).how == "compiled"
    assert work.calls == 2
    assert list(tmp_path.iterdir()) == []


def test_what_was_compiled_before_an_interruption_is_on_disk(tmp_path):
    def stops(lowered) -> Outcome:
        raise KeyboardInterrupt

    compiler(tmp_path, Counting()).ask("one", lower())
    with pytest.raises(KeyboardInterrupt):
        compiler(tmp_path, stops).ask("two", lower(3.0))
    assert compiler(tmp_path, Counting(), large=False).ask("one", lower()).how == "recalled"


def test_a_store_is_sorted_one_program_per_line_and_keeps_the_last_of_a_name(tmp_path):
    work = Counting()
    for name, scale in (("b", 1.0), ("a", 2.0), ("b", 3.0)):
        compiler(tmp_path, work).ask(name, lower(scale))
    lines = (tmp_path / "tpu-v6e-aot" / "programs.jsonl").read_text().splitlines()
    assert [Program.model_validate_json(line).name for line in lines] == ["a", "b"]
    assert compiler(tmp_path, work, large=False).ask("b", lower(1.0)).how == "needs compiling"


@pytest.mark.parametrize("line", ["{", '{"name": "x"}', '{"name": "x", "what": 1}'])
def test_a_store_that_is_not_valid_is_refused_with_the_line(line, tmp_path):
    path = tmp_path / "programs.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=r"programs\.jsonl, line 1: .*restore the file"):
        Store(path)


def test_a_program_that_does_not_fit_is_an_answer_with_what_it_needs():
    assert needed_bytes(TEMPORARIES) == int(32.005 * GIB)
    assert needed_bytes(USED) == int(40.285 * GIB)
    assert needed_bytes("RESOURCE_EXHAUSTED: no numbers") is None
    assert failed(USED, 3.0) == Outcome(False, int(40.285 * GIB), 3.0)


def test_a_failure_for_another_reason_is_not_called_too_large():
    with pytest.raises(CompileError, match=r"not for lack of memory: INTERNAL: Mosaic failed"):
        failed("INTERNAL: Mosaic failed to compile", 1.0)


def test_an_unknown_topology_and_a_held_lock_say_what_to_do():
    unknown = refused_topology("v9:2x2", "INVALID_ARGUMENT: Invalid TPU external name: TPU v9")
    assert isinstance(unknown, ValueError)
    assert "'v9:2x2'" in str(unknown)
    assert "v6e:2x2 (v6e)" in str(unknown)
    locked = refused_topology("v6e:2x2", "ABORTED: Internal error when accessing libtpu multi-process lockfile.")
    assert isinstance(locked, RuntimeError)
    assert "another process" in str(locked)
    assert "ALLOW_MULTIPLE_LIBTPU_LOAD=1" in str(locked)


def test_the_peak_on_a_cpu_holds_arguments_outputs_and_temporaries():
    found = compiled(jax.jit(lambda x: jnp.sort(x @ x.T, axis=0) @ x).lower(jnp.ones((256, 256), jnp.float32)))
    assert found.fits
    assert found.temp_bytes > 0
    assert found.peak_bytes == found.argument_bytes + found.output_bytes + found.temp_bytes


def test_a_platform_names_its_chip_and_no_other_platform_does():
    assert {name: chip_of(platform_of(name)) for name in CHIPS} == {name: name for name in CHIPS}
    named = {"v6e": "tpu-v6e-aot", "tpu7x": "tpu-7x-aot", "a100-40": "gpu-a100-40-aot"}
    assert {chip: platform_of(chip) for chip in named} == named
    assert [chip_of(name) for name in ("cpu", "tpu-v6e", "gpu-h200")] == [None] * 3


@pytest.mark.skipif(not installed(), reason=INSTALL)
@pytest.mark.parametrize("chip", TPUS)
def test_plans_are_made_with_what_the_compiler_says_is_usable(chip):
    sharding = sharding_on(chip)
    (device,) = sharding.device_set
    too_large = jax.ShapeDtypeStruct((2**38,), jnp.int8, sharding=sharding)
    with pytest.raises(jax.errors.JaxRuntimeError, match=rf"exceeds available HBM \({TPUS[chip].usable_gib}G\)"):
        jax.jit(lambda x: x + 1).lower(too_large).compile()
    assert usable_bytes(device) == TPUS[chip].usable_bytes


@pytest.mark.skipif(not installed(), reason=INSTALL)
@pytest.mark.parametrize("gib", [1, 20])
def test_a_program_is_sized_as_the_compiler_does_when_it_refuses_it_whether_it_fits_or_not(gib):
    def lowered(chip: str, gib: int):
        x = jax.ShapeDtypeStruct((gib * GIB // 4,), jnp.float32, sharding=sharding_on(chip))
        return jax.jit(lambda x: 2 * x, compiler_options=compiler_options("tpu")).lower(x)

    answer, refused = sized(lowered("v6e", gib)), compiled(lowered("v6e", 20))
    assert not answer.fits
    assert 0 < answer.peak_bytes - 2 * gib * GIB < 0.01 * GIB  # the compiler says it with two digits after the point
    assert not refused.fits
    assert 0 < refused.peak_bytes - 40 * GIB < 0.01 * GIB


@pytest.mark.skipif(not installed(), reason=INSTALL)
def test_a_compiler_that_takes_a_program_for_a_chip_without_memory_is_not_believed(monkeypatch):
    monkeypatch.setattr("twinvae.bench.aot.tpu_compiler._compiled_with", lambda lowered, memory: Outcome(True, 1, 1.0))
    x = jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=sharding_on("v6e"))
    with pytest.raises(CompileError, match="no longer heeds"):
        sized(jax.jit(lambda x: 2 * x).lower(x))


@pytest.mark.skipif(not installed(), reason=INSTALL)
def test_sizes_and_compiled_programs_are_told_apart(tmp_path):
    whole, sizes = compiler_for("v6e", tmp_path, large=True), sizer_for("v6e", tmp_path)
    assert whole.store.path != sizes.store.path
    assert whole.mark(lower()) != sizes.mark(lower())
    assert (whole.compile, sizes.compile) == (compiled, sized)


def test_a_program_is_sized_with_almost_as_much_memory_as_it_needs(monkeypatch):
    """With more memory it needs more: 31.29 GiB and not 31.24."""
    given = []

    def compiled_with(lowered, memory):
        given.append(memory)
        return Outcome(False, 3200 * 2**20 if memory > 2000 * 2**20 else 3000 * 2**20, 1.0)

    monkeypatch.setattr("twinvae.bench.aot.tpu_compiler._compiled_with", compiled_with)
    assert sized(None).peak_bytes == 3200 * 2**20
    assert given == [2**20, 2970 * 2**20]


@pytest.mark.parametrize(("refused", "peak"), [(None, 3000), (Outcome(False, 3200 * 2**20, 1.0), 3200)])
def test_a_program_that_is_taken_when_one_per_cent_is_lacking_needs_the_first_answer_at_most(
    refused, peak, monkeypatch
):
    given = []
    monkeypatch.setattr(
        "twinvae.bench.aot.tpu_compiler.compiled", lambda lowered, options: Outcome(False, 3000 * 2**20, 1.0)
    )
    answer = sized(None, lambda options: given.append(options) or refused)
    assert (answer.fits, answer.peak_bytes, given) == (False, peak * 2**20, [{MEMORY: "2970"}])


def a_gibibyte() -> jax.stages.Lowered:
    x = jax.ShapeDtypeStruct((GIB // 4,), jnp.float32, sharding=sharding_on("v6e"))
    return jax.jit(lambda x: 2 * x, compiler_options=compiler_options("tpu")).lower(x)


def a_convolution() -> jax.stages.Lowered:
    """One that takes a while to become machine code, and 1 GiB in and out."""
    x, kernel = (
        jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding_on("v6e"))
        for shape in ((1, 1024, 2048, 128), (3, 3, 128, 128))
    )

    def conv(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    return jax.jit(conv, compiler_options=compiler_options("tpu")).lower(x, kernel)


@pytest.mark.skipif(not installed(), reason=INSTALL)
@pytest.mark.parametrize("lower", [a_gibibyte, a_convolution])
def test_a_program_is_taken_where_there_is_memory_and_refused_as_the_compiler_does_where_there_is_none(lower):
    assert refusal(lower, {MEMORY: "3000"}) is None
    refused, alone = refusal(lower, {MEMORY: "900"}), compiled(lower(), {MEMORY: "900"})
    assert (refused.fits, refused.peak_bytes) == (False, alone.peak_bytes)
    assert not active_children()


class Slow:
    """A program that is taken, and of which machine code is made for a minute, and then not at all."""

    def compile(self, compiler_options):
        Path(compiler_options["xla_dump_to"], "m.after_optimizations_after_buffer_assignment.txt").touch()
        time.sleep(60)


def test_the_compiler_is_stopped_when_it_has_taken_a_program():
    assert refusal(Slow, {}) is None
    assert not active_children()


@dataclass
class Endless:
    """A program of which machine code is made for a minute; the process that does it says which one it is."""

    process: Path

    def __call__(self):
        self.process.write_text(str(os.getpid()))
        time.sleep(60)


def test_the_compiler_ends_with_the_process_that_asked_however_that_was_stopped(tmp_path):
    program = Endless(tmp_path / "process")
    asking = get_context("spawn").Process(target=refusal, args=(program, {}))
    asking.start()
    until(lambda: program.process.exists() and program.process.read_text())
    compiling = psutil.Process(int(program.process.read_text()))
    asking.kill()
    asking.join()
    until(lambda: not compiling.is_running() or compiling.status() == psutil.STATUS_ZOMBIE)


def until(happened, seconds=50):
    """Wait for it; a busy machine may take long to start two processes."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("lower", "words"),
    [(partial(os._exit, 3), "ends with 3"), (partial(int, "nine"), "ValueError: invalid literal .*nine")],
)
def test_a_process_of_the_compiler_that_dies_or_fails_is_an_error_and_no_answer(lower, words):
    with pytest.raises(CompileError, match=words):
        refusal(lower, {})


def test_what_was_compiled_in_full_goes_before_what_a_program_is_said_to_need(tmp_path):
    whole = compiler(tmp_path / "whole", lambda lowered: Outcome(True, 99, 1.0))
    sizes = compiler(tmp_path / "sizes", lambda lowered: Outcome(False, 100, 1.0))._replace(better=whole)
    assert sizes.ask("x", lower()).program.peak_bytes == 100
    assert sizes.recall("x", lower()).peak_bytes == 100
    whole.ask("x", lower())
    assert sizes.ask("x", lower()).program.peak_bytes == 99
    assert sizes.ask("y", lower(3.0)).program.peak_bytes == 100


def test_a_program_is_expected_to_take_as_long_as_it_did_and_a_new_one_as_the_middle(tmp_path):
    store = Store(tmp_path / "programs.jsonl")
    assert expected_seconds(["x"], store) == [240.0]
    for name, seconds in (("a", 10.0), ("b", 30.0), ("c", 90.0)):
        store.keep(
            Program(name=name, fingerprint=name, topology="t", compiler="v", fits=True, seconds=seconds, date="")
        )
    assert expected_seconds(["c", "new", "a", "b"], store) == [90.0, 30.0, 10.0, 30.0]


def test_an_answer_that_is_not_known_is_never_taken_for_one():
    assert not Answer("needs compiling", None).known
    assert Answer("recalled", None).known
