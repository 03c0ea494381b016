"""pytest's options for finding out what goes on: where NaN come from, what is compiled, and traces of warm calls."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import pytest

from twinvae import VideoVAE
from twinvae.bench.xla_cost import COMPILING, Stage, stages

DEBUG_NANS = "--debug-nans"
MOST_SHOWN = 20
FIRST_NAN = pytest.StashKey[str]()
STAGES = pytest.StashKey[list[Stage]]()
TRACES = pytest.StashKey[list[Path]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("twinvae debugging", "what goes on inside (docs/debugging.md)")
    group.addoption(DEBUG_NANS, action="store_true", help="stop each test at the operation that first gives NaN")
    group.addoption("--log-compiles", action="store_true", help="say what is compiled, and how often in the end")
    group.addoption("--trace-dir", metavar="DIR", help="profile one more, warm call of each chosen case into DIR")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Switch JAX's own options on for the run.

    Raises:
        pytest.UsageError: the folder for traces cannot be made.
    """
    option, undo = config.option, ExitStack()
    config.add_cleanup(undo.close)
    for name, wanted in (("jax_debug_nans", option.debug_nans), ("jax_log_compiles", option.log_compiles)):
        if wanted:
            undo.callback(jax.config.update, name, getattr(jax.config, name))
            jax.config.update(name, True)
    if option.log_compiles:
        option.log_cli_level = option.log_cli_level or "WARNING"  # JAX's level for what it compiles: shown as it comes
        config.stash[STAGES] = undo.enter_context(stages())
    if option.trace_dir is not None:
        config.stash[TRACES] = []
        try:
            Path(option.trace_dir).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise pytest.UsageError(
                f"--trace-dir {option.trace_dir}: {error.strerror}; name a folder for traces"
            ) from None


def flags(config: pytest.Config) -> tuple[str, ...]:
    """Which of these options were given that change what a run measures."""
    return (DEBUG_NANS,) if config.option.debug_nans else ()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    met = item.config.option.debug_nans and call.excinfo and call.excinfo.errisinstance(FloatingPointError)
    if met and call.excinfo:
        item.config.stash.setdefault(FIRST_NAN, f"{item.nodeid}: {str(call.excinfo.value).splitlines()[0]}")
    return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.option.debug_nans:
        terminalreporter.section("NaN")
        terminalreporter.write_line(f"first met in {config.stash[FIRST_NAN]}" if FIRST_NAN in config.stash else "none")
    if STAGES in config.stash:
        terminalreporter.section("programs compiled")
        for line in compiled_lines(config.stash[STAGES]):
            terminalreporter.write_line(line)
    if TRACES in config.stash:
        terminalreporter.section("traces")
        for path in config.stash[TRACES]:
            terminalreporter.write_line(str(path))
        terminalreporter.write_line(
            f"open one at https://ui.perfetto.dev, or all of them: xprof --logdir {config.option.trace_dir}"
            if config.stash[TRACES]
            else "none: no chosen test calls encode or decode of the VAE under test"
        )


def compiled_lines(found: list[Stage]) -> list[str]:
    """How often each program was compiled, and for how long in all; the longest first."""
    times, counts = Counter[str](), Counter[str]()
    for one in found:
        if one.stage == COMPILING:
            counts[one.program] += 1
            times[one.program] += one.ended - one.began  # type: ignore[assignment]  # Counter adds any numbers
    lines = [f"{counts[name]:6} x {name}, {seconds:.1f} s" for name, seconds in times.most_common(MOST_SHOWN)]
    return [*lines, f"{counts.total():6} in all, of {len(counts)} names, {times.total():.1f} s"]


def trace(config: pytest.Config, name: str, call: Callable[[], Any]) -> None:
    """Make a call again, and once more under the profiler, where --trace-dir is given.

    Args:
        name: of the folder that the trace goes into.
    """
    if TRACES not in config.stash:
        return
    folder = Path(config.option.trace_dir) / re.sub(r"[^\w.,=-]+", "_", name).strip("_")
    with jax.debug_nans(False):  # the program as it is without looking at every operation's values
        jax.block_until_ready(call())
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            jax.block_until_ready(call())
    config.stash[TRACES].append(max(folder.rglob("perfetto_trace.json.gz"), key=lambda path: path.stat().st_mtime))


@contextmanager
def traced(config: pytest.Config, name: str, vae: VideoVAE) -> Iterator[None]:
    """Where --trace-dir is given, the last `encode` and `decode` in the block are made again, under the profiler."""
    if TRACES not in config.stash:
        yield
        return
    last: dict[str, Callable[[], Any]] = {}

    def noting(operation: str) -> Callable[..., Any]:
        method = getattr(vae, operation)

        def noted(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            last[operation] = lambda: getattr(again := method(*args, **kwargs), "moments", again)
            return result

        return noted

    operations = ("encode", "decode")
    vars(vae).update({operation: noting(operation) for operation in operations})
    try:
        yield
    finally:
        for operation in operations:
            vars(vae).pop(operation, None)
    for operation, call in last.items():
        trace(config, f"{name} {operation}", call)
