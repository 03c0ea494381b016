"""The pytest side of records: a run file per suite while tests run, then pages, a summary, and the exit status."""

from __future__ import annotations

import io
import os
import shutil
import signal
import sys
from argparse import BooleanOptionalAction
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table

from twinvae.bench import debugging, provenance
from twinvae.bench.aot.compilers import chip_of, missing
from twinvae.bench.baselines import Baseline, baseline_path, read_baseline
from twinvae.bench.clips import read_clip
from twinvae.bench.diagnosis.diagnose import SECONDS, Diagnosis
from twinvae.bench.diagnosis.run import diagnose_backend, diagnose_outputs
from twinvae.bench.models import TRAINED
from twinvae.bench.options import OPTIONS, Model, Options, check_clip
from twinvae.bench.pages import many
from twinvae.bench.places import SUITES, alone, files_of, suite_of
from twinvae.bench.records import Record, RunFile, Selection
from twinvae.bench.report import Summary, judge_suites, write_diagnosis, write_report
from twinvae.bench.verdicts import judge, judge_in, number
from twinvae.capabilities import CAPABILITIES, SHOWN_BY
from twinvae.isolation import undisturbed
from twinvae.jax.mesh import NotDealtError
from twinvae.port import Budget, NotTaken, PortError, label_of
from twinvae.registry import capabilities_of

FILES = pytest.StashKey[dict[str, RunFile]]()
SUMMARY = pytest.StashKey[Summary]()
HELD = pytest.StashKey[dict[Path, set[str]]]()  # the tests of each file, by node id, whatever is left of them
TRIED = pytest.StashKey[set[str]]()  # the tests that ran, or were skipped or broken before they could
PAST = pytest.StashKey[list[str]]()
ATTEMPT = pytest.StashKey[int]()  # how often a test has been begun: more than once by plugins that run failures again
PROCESS = pytest.StashKey[int]()
LACKING = pytest.StashKey[dict[str, Counter[str]]]()  # by suite: what backends do not say that they can
NOT_TAKEN = pytest.StashKey[dict[str, Counter[str]]]()  # by suite: what ports did not take while tests ran
OWN_ALONE, OWN = {"house", "step"}, "what TwinVAE's own backends alone have"
KEPT = pytest.StashKey[dict[str, Baseline | None]]()  # the baseline of each suite that had to be asked


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "find out what a backend does whose whole models fail, by experiments with the first model"
    parser.getgroup("twinvae").addoption("--diagnose", action=BooleanOptionalAction, default=False, help=help)


class NoBenchmark:
    """What stands in where pytest-benchmark is left out: times become records, and are stored nowhere else."""

    @pytest.fixture
    def benchmark(self) -> None:
        return None


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    config.stash[FILES], config.stash[HELD], config.stash[TRIED] = {}, {}, set()
    config.stash[LACKING], config.stash[NOT_TAKEN] = {}, {}
    config.stash[PROCESS] = os.getpid()
    refuse_several_processes(config)
    if not config.pluginmanager.hasplugin("benchmark"):
        config.pluginmanager.register(NoBenchmark(), "no-benchmark")


def refuse_several_processes(config: Any) -> None:
    """pytest-xdist's processes would each measure beside the others, and begin each suite's records anew.

    Raises:
        pytest.UsageError: suites are among what is run, by several processes.
    """
    if getattr(config.option, "dist", "no") == "no":
        return
    places = [(config.invocation_params.dir / argument.partition("::")[0]).resolve() for argument in config.args]
    suites = [path for path in places if path.is_relative_to(SUITES) or SUITES.is_relative_to(path)]
    if suites or getattr(config.option, "pyargs", False):
        raise pytest.UsageError(
            "-n (pytest-xdist) with suites: what they measure is one process's, and each one would begin their records "
            "anew; leave -n out, or name tests of other folders alone, such as `pytest tests -n 2`"
        )


def pytest_report_header(config: pytest.Config) -> list[str]:
    options = config.stash.get(OPTIONS, None)
    return port_lines(options) if options else []


def port_lines(options: Options) -> list[str]:
    """What is said of ports before any test, a line each."""
    return [f"{label_of(name)}: {note}" for name, taken in options.ports.items() for note in taken.notes]


# Before the tests


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=_large_models_last)
    for item in items:
        if lacking := lacks(item):
            item.add_marker(pytest.mark.skip(reason=f"the backend does not say that it can: {', '.join(lacking)}"))
        elif of_no_port(item):
            item.add_marker(pytest.mark.skip(reason="it judges no backend"))
    options = config.stash[OPTIONS]
    wanted = [mark.args[0] for item in items for mark in item.iter_markers("clip_frames")]
    if options.clip and wanted:
        check_clip(options.clip, max(wanted))


def lacks(item: Any) -> list[str]:
    """What a test needs and its backend does not say that it can do."""
    needed = {name for mark in item.iter_markers("needs") for name in mark.args}
    if unknown := needed - CAPABILITIES:
        raise pytest.UsageError(f"{item.nodeid}: needs() has no {', '.join(sorted(unknown))}")
    backend = item.callspec.params.get("backend") if hasattr(item, "callspec") else None
    known = isinstance(backend, str)  # where the options leave no case, pytest has a value of its own
    return sorted(needed - capabilities_of(backend)) if needed and known else []


def of_no_port(item: Any) -> bool:
    """Whether ports alone are judged, and a test of a suite takes no backend: it judges what is not theirs."""
    in_suite = suite_of(item.path) and "backend" not in getattr(item, "fixturenames", ())
    return bool(in_suite and item.config.stash[OPTIONS].ports_alone)


def _large_models_last(item: Any) -> tuple[Any, ...]:
    """Models of the full architecture come last, dtype by dtype and backend by backend, so that each is loaded once."""
    values = item.callspec.params if hasattr(item, "callspec") else {}
    model = values.get("model")
    if not isinstance(model, Model) or not model.is_large:  # pytest has a mark for where no case is left
        return (0,)
    dtype = values.get("dtype", "")
    return (1, model.label, -len(dtype), dtype, values.get("backend", ""), values.get("mode", ""))


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, Any, Any]:
    """Innermost, so that what other plugins leave out of a file, as --lf does, still counts as held by it."""
    report = yield
    if isinstance(collector, pytest.Module) and report.passed:
        tests = {node.nodeid for node in report.result if isinstance(node, pytest.Item)}
        collector.config.stash[HELD].setdefault(collector.path, set()).update(tests)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    item.stash[ATTEMPT] = item.stash.get(ATTEMPT, 0) + 1
    item.stash[PAST] = []
    if not item.config.option.setuponly:  # with --setup-plan, too, nothing is measured
        run_file(item)
    with port_speaks(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """What a test of a suite, or a backend in it, changes of this process's settings ends with it."""
    with undisturbed() if suite_of(item.path) else nullcontext():
        return (yield)


def run_file(item: pytest.Item) -> RunFile | None:
    """The run file of an item's suite, begun with the suite's first test; None for unit tests.

    A test that is marked to be skipped, as pytest-benchmark does with other suites' under --benchmark-only, begins
    none: what that suite measured when it was run stays.

    Raises:
        pytest.UsageError: the report folder cannot be written, or this is a process of a plugin's.
    """
    suite, files = suite_of(item.path), item.config.stash[FILES]
    unjudged = lacks(item) or of_no_port(item)
    if suite is None or (suite not in files and item.get_closest_marker("skip") and not unjudged):
        return None
    if os.getpid() != item.config.stash[PROCESS]:
        raise pytest.UsageError("a suite's records are written by one process: leave out what makes others (--forked)")
    if suite not in files:
        options = item.config.stash[OPTIONS]
        file = RunFile(options.report_dir / options.platform / "records" / f"{suite}.jsonl")
        try:
            file.start(_describe(suite, options, item.session))
        except OSError as error:
            raise pytest.UsageError(str(error)) from None
        files[suite] = file
    return files[suite]


def _describe(suite: str, options: Options, session: pytest.Session) -> Any:
    frames = max((mark.args[0] for item in session.items for mark in item.iter_markers("clip_frames")), default=1)
    items: Any = session.items
    own = [item for item in items if suite_of(item.path) == suite and hasattr(item, "callspec")]
    session.config.stash[LACKING][suite] = lacking = _lacking(own)
    return provenance.collect(
        suite,
        options.platform,
        seed=options.seed,
        weights=options.weights,
        clip=options.clip_label,
        selection=Selection(
            backends=(*map(label_of, options.backends), *([options.outputs.label] if options.outputs else [])),
            modes=options.modes,
            dtypes=options.dtypes,
            presets=presets_of(options, own),
            ports_alone=options.ports_alone,
        ),
        options=(*options.given, *debugging.flags(session.config)),
        unjudged=counted(lacking),
        ports=port_lines(options),
        names=options.backends,
        storage=_saved_runs(session.config),
        given_commit=options.commit,
        nan_input=options.clip is not None and bool(np.isnan(read_clip(options.clip, frames, 64, 64)).any()),
    )


def presets_of(options: Options, items: Iterable[Any]) -> tuple[str, ...]:
    """Presets of which a run of these tests measures all that it is to, as far as backends, modes and dtypes go.

    A single round looks at the trained one in part.
    """
    items = list(items)
    taken = {item.callspec.params.get("model") for item in items}
    # Where no test takes a model, those that were chosen still say whose values are not asked for.
    used = [model for model in options.models if model in taken] or list(options.models)
    if not options.one_round and any("trained" in item.fixturenames for item in items):
        used.append(TRAINED)
    return tuple(dict.fromkeys(model.label for model in used))


def _lacking(items: Any) -> Counter[str]:
    """What is not judged of a backend, and how many tests that is."""
    return Counter(
        f"{label_of(item.callspec.params['backend'])}: {OWN if OWN_ALONE & set(lacking) else ', '.join(lacking)}"
        for item in items
        if (lacking := lacks(item))
    )


def counted(found: Counter[str]) -> tuple[str, ...]:
    """A line each."""
    return tuple(f"{what} ({many(count, 'test')})" for what, count in sorted(found.items()))


def _saved_runs(config: pytest.Config) -> str:
    """The folder in which pytest-benchmark saves runs; none where it saves them in a database, or is left out."""
    place = getattr(config.option, "benchmark_storage", "").removeprefix("file://")
    return "" if not place or "://" in place else str(config.invocation_params.dir / place)


# While they run


def keep(item: pytest.Item, record: Record) -> None:
    """Append a record of an item's suite; one past its limit fails the test when its body is done.

    Raises:
        ValueError: another test, or this one now, has recorded the same thing.
    """
    file = run_file(item)
    file.record(record, measurement_of(item), f"{item.nodeid} {item.stash[ATTEMPT]}")
    verdict = judge(record)
    if verdict.failing and judge_in(file.run, record, _baseline(item.config, file.run.suite)).status != "known":
        item.stash.setdefault(PAST, []).append(f"{record.key}: {number(record.value)}, {verdict.reason}")


def measurement_of(item: Any) -> tuple[Any, ...]:
    """What is the same for every repetition of a test, whichever plugin repeats it."""
    values = item.callspec.params if hasattr(item, "callspec") else {}
    # pytest-repeat gives each its number as a parameter of such a name.
    own = tuple((name, str(value)) for name, value in sorted(values.items()) if not name.startswith("__"))
    return item.path, getattr(item, "originalname", item.name), own


def _baseline(config: pytest.Config, suite: str) -> Baseline | None:
    kept, options = config.stash.setdefault(KEPT, {}), config.stash[OPTIONS]
    if suite not in kept:
        kept[suite] = read_baseline(baseline_path(options.baseline_dir, options.platform, suite))
    return kept[suite]


def skip_without_compiler(config: pytest.Config, items: Iterable[pytest.Item], folder: Path) -> None:
    """Skip a folder's tests under the platform of a compiler that is not there; what was measured of it stays."""
    chip = chip_of(config.stash[OPTIONS].platform)
    if chip and (reason := missing(chip)):
        for item in items:
            if folder in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=reason))


@contextmanager
def port_speaks(item: pytest.Item) -> Iterator[None]:
    """What goes wrong in a port fails its test in one line; what it or a mesh does not take is skipped, and counted."""
    try:
        yield
    except PortError as error:
        raise pytest.fail.Exception(f"{type(error).__name__}: {error}", pytrace=False) from None  # said once
    except (NotTaken, NotDealtError) as why:
        if isinstance(why, NotDealtError) and not item.config.stash[OPTIONS].mesh:
            raise
        backend = axis_fields(item).get("backend", "")
        of_suite = item.config.stash[NOT_TAKEN].setdefault(suite_of(item.path) or "", Counter())
        of_suite[f"{backend}: {why}"] += 1
        pytest.skip(str(why))


@contextmanager
def limited(seconds: float | None) -> Iterator[None]:
    """Where --time-limit is given, a test whose backend runs in this process ends when five calls' time is over.

    What waits inside of a compiled program is not reached: a port in a process of its own is, by its end.
    """
    if seconds is None:
        yield
        return

    def over(*_: Any) -> None:
        raise TimeoutError(f"took longer than {seconds:g} s (see --time-limit)")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    limit = item.config.stash[OPTIONS].time_limit if suite_of(item.path) else None
    with port_speaks(item), limited(limit and Budget.CALLS * limit):
        result = yield
    if past := item.stash.get(PAST, []):
        pytest.fail("\n".join(past), pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if report.when == "call" or not report.passed:
        item.config.stash[TRIED].add(item.nodeid)
    file = item.config.stash[FILES].get(suite_of(item.path) or "")
    if file and report.when == "call" and report.passed and item.stash[ATTEMPT] > 1:
        file.passed(item.nodeid)
    if file and report.failed:
        fields = axis_fields(item)
        fields.pop("preset", None)
        rerun = alone(item.nodeid, item.config.stash[OPTIONS].given)
        file.failure(item.nodeid, _first_line(call, report), rerun, case=getattr(item, "originalname", ""), **fields)
    return report


def axis_fields(item: Any) -> dict[str, str]:
    """The fields of a record that an item's parameters give: backend, mode, dtype and preset."""
    values = item.callspec.params if hasattr(item, "callspec") else {}
    fields = {axis: label_of(str(values[axis])) for axis in ("backend", "mode", "dtype") if axis in values}
    return fields | ({"preset": values["model"].label} if "model" in values else {})


def _first_line(call: pytest.CallInfo[None], report: pytest.TestReport) -> str:
    lines = str(call.excinfo.value).strip().splitlines() if call.excinfo else [report.longreprtext]
    kind = call.excinfo.typename if call.excinfo else report.when
    return lines[0] if lines and kind in ("AssertionError", "Failed") else f"{kind}: {lines[0] if lines else ''}"


# After them


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    files = session.config.stash.get(FILES, {})
    for suite, file in files.items():
        held, tried = session.config.stash[HELD], session.config.stash[TRIED]
        ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        unjudged = counted(session.config.stash[NOT_TAKEN].get(suite, Counter()))
        file.end(ended and is_complete(files_of(suite), held, tried), int(exitstatus), unjudged)
    if files:
        options = session.config.stash[OPTIONS]
        if session.config.option.diagnose and exitstatus == pytest.ExitCode.TESTS_FAILED:
            _diagnose(session.config, options, tuple(files))
        summary = write_report(options.report_dir, options.baseline_dir, options.platform, tuple(files))
        session.config.stash[SUMMARY] = summary
        if summary.failed and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _diagnose(config: pytest.Config, options: Options, suites: tuple[str, ...]) -> None:
    """Look for the causes of what fails of each backend; what comes of it stands on the pages of these runs."""
    say = config.pluginmanager.get_plugin("terminalreporter")
    folder = options.report_dir / options.platform / "records"
    judged = judge_suites(options.report_dir, options.baseline_dir, options.platform, suites)
    for label, diagnose in _subjects(options).items():
        ours = [one for one in judged if one.suite in suites]
        whole = any(v.failing and v.key.backend == label and v.key.preset for one in ours for v in one.verdicts)
        if not whole and not any(f.backend == label for one in ours for f in one.data.failures):
            continue
        say.write_line(f"\n{label}: looking for causes, up to {SECONDS:g} s")
        try:
            found = diagnose(say=lambda finding: say.write_line(f"  found: {finding.headline}"))
        except (OSError, ValueError) as error:
            say.write_line(f"  {error}")
        else:
            write_diagnosis(folder, label, found.findings, datetime.now(UTC).isoformat(timespec="seconds"))


def _subjects(options: Options) -> dict[str, Callable[..., Diagnosis]]:
    """What can be diagnosed, by its name in records."""
    if options.outputs:
        return {options.outputs.label: partial(diagnose_outputs, options.outputs)}
    given = {"named": options.names_models, "seed": options.seed}
    return {label_of(name): partial(diagnose_backend, name, options.models[0], **given) for name in options.backends}


def is_complete(files: set[Path], held: Mapping[Path, set[str]], tried: set[str]) -> bool:
    """Whether every test that the options leave in a suite's files was tried, however a run was cut down.

    Args:
        files: of the suite.
        held: the tests of each file that was collected; a file that was left out, or skipped whole, has none.
        tried: the tests that ran, or were skipped or broken before they could.
    """
    return all(held.get(file) and held[file] <= tried for file in files)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if SUMMARY not in config.stash:
        return
    summary, encoding = config.stash[SUMMARY], getattr(sys.stdout, "encoding", None) or "utf-8"
    of_suites = [
        config.stash[key].get(suite, Counter()) for suite in config.stash[FILES] for key in (LACKING, NOT_TAKEN)
    ]
    if lines := unjudged_lines(sum(of_suites, Counter())):
        terminalreporter.section("not judged, by what a backend lacks")
        for line in lines:
            terminalreporter.write_line(within(line, encoding))
    terminalreporter.section("verdicts")
    terminalreporter.write(drawn(summary.table, encoding, terminalreporter.hasmarkup))
    for line in (*summary.lines, f"pages: {summary.index}"):
        terminalreporter.write_line(within(line, encoding))


def unjudged_lines(found: Counter[str]) -> list[str]:
    """What the suites together did not judge, and what a port would need to be judged on it."""
    names = {name for what in found for name in what.partition(": ")[2].split(", ")}
    return [*counted(found), *(f"{name}: by {has}" for name, has in SHOWN_BY.items() if name in names)]


def drawn(table: Table, encoding: str, markup: bool) -> str:
    """A table in characters that a terminal has; its lines are ASCII's where that is not Unicode."""
    text = io.TextIOWrapper(io.BytesIO(), encoding, errors="replace", newline="")
    width = shutil.get_terminal_size((120, 24)).columns
    Console(file=text, width=width, force_terminal=markup).print(table)
    text.flush()
    return text.buffer.getvalue().decode(encoding)


def within(text: str, encoding: str) -> str:
    """A text with question marks for what an encoding lacks; pytest would escape all of it."""
    return text.encode(encoding, "replace").decode(encoding)
