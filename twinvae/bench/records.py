"""Records: what a suite measured, one value each, and the JSON Lines file that a run appends them to."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from twinvae.bench.jsonl import JsonLines

# NumPy and JAX scalars are measured values too; NaN and infinities become strings in JSON, which has no word for them.
Value = Annotated[float, BeforeValidator(lambda value: float(value))]


def _factor(tolerance: float) -> float:
    if not tolerance >= 1:
        raise ValueError(
            "a tolerance is a factor of at least 1 by which a value may get worse than its baseline; write 1 for not "
            "at all, 1.1 for ten per cent, inf for a value that is only shown"
        )
    return tolerance


Tolerance = Annotated[float, AfterValidator(_factor)]


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Selection(_Line):
    """What the options of a run left in; an empty axis leaves everything in.

    Attributes:
        ports_alone: ports and nothing else were judged: what belongs to no backend was not measured.
    """

    backends: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    presets: tuple[str, ...] = ()
    ports_alone: bool = False

    def holds(self, backend: str, mode: str, dtype: str, preset: str) -> bool:
        """Whether a record with these fields belongs to the run; a field that is empty belongs to every run."""
        if self.ports_alone and not backend:
            return False
        axes = ((backend, self.backends), (mode, self.modes), (dtype, self.dtypes), (preset, self.presets))
        return all(not value or not chosen or value in chosen for value, chosen in axes)


class Run(_Line):
    """Where the numbers come from. `twinvae.bench.provenance.collect` fills it in.

    Attributes:
        commit: the checkout's commit, with "+changes" behind it where files differ from it.
        sources: of each backend measured, which code it was: ours is of `commit`; a port's own repository's commit, or
            a digest of its sources. Runs of before this was written down have none.
        device: the accelerator or processor by name.
        machine: a fingerprint; times are compared between runs with the same one only.
        weights, clip: labels; values are compared between runs with the same labels and seed only.
        options: the suite options that were given, repeated in every command to run a case again.
        nan_input: whether the clip held NaN.
        storage: the folder in which pytest-benchmark saves runs.
        unjudged: what backends do not say that they can do, and so was not judged of them, a line each.
        ports: what small calls found out about ports, a line each.
    """

    type: Literal["run"] = "run"
    suite: str
    platform: str
    date: str
    commit: str
    sources: dict[str, str] = {}
    versions: dict[str, str]
    device: str
    cores: int
    machine: str
    seed: int
    weights: str
    clip: str
    command: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    selection: Selection = Selection()
    nan_input: bool = False
    storage: str = ""
    unjudged: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()

    @property
    def debugged(self) -> bool:
        """Whether every operation's values were looked at, which makes other programs and other times."""
        return "--debug-nans" in self.options


class Key(NamedTuple):
    """What makes two records measurements of the same thing."""

    suite: str
    case: str
    backend: str = ""
    operation: str = ""
    mode: str = ""
    dtype: str = ""
    preset: str = ""
    shape: str = ""
    metric: str = ""
    layer: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in self[1:] if part)


class Record(_Line):
    """One measured value.

    Attributes:
        value: None where there is none to give (a program that does not fit); `note` says why.
        better: which direction is; "equal" allows no change at all.
        kind: "exact" is the same on every run of the same versions, "ratio" compares two things timed in turn in one
            run, "absolute" is a time or a throughput.
        limit: the bar; a value past it is wrong whatever the baseline says.
        tolerance: the factor by which a value may get worse than its baseline (1: not at all, 1.1: by ten per cent, 2:
            errors may double); infinite: the value is shown, and held against no baseline.
        floor: values at least this good are all equal (rounding); 0 for none.
        of_compiler: whether an exact value is comparable only under the same JAX, jaxlib and processor, as what an
            optimiser made of a program is.
        interval: bounds of a bootstrap confidence interval.
        test: pytest's id of the test that measured it.
        pending: the command that would give the value, where what it takes is too long to be done unasked.
        layer, order: of a value inside a model, the block's name and its place in the order of computation.
    """

    type: Literal["record"] = "record"
    suite: str
    case: str
    backend: str = ""
    operation: str = ""
    mode: str = ""
    dtype: str = ""
    preset: str = ""
    shape: str = ""
    metric: str
    value: Value | None
    unit: str = ""
    better: Literal["lower", "higher", "equal"] = "lower"
    kind: Literal["exact", "ratio", "absolute"] = "exact"
    limit: Value | None = None
    tolerance: Tolerance = 1.0
    floor: float = 0.0
    of_compiler: bool = False
    interval: tuple[Value, Value] | None = None
    runs: int = Field(1, ge=1)
    test: str = ""
    pending: str = ""
    layer: str | None = None
    order: int | None = None
    note: str = ""

    @property
    def sure(self) -> bool:
        """Whether the value can be relied on: it is there, and its interval, where it has one, ends somewhere."""
        return not self.pending and (self.interval is None or self.interval[1] < float("inf"))

    @property
    def key(self) -> Key:
        fields = {name: getattr(self, name) or "" for name in Key._fields}
        return Key(**fields)


class Failure(_Line):
    """A test that failed, whatever it recorded before."""

    type: Literal["failure"] = "failure"
    test: str
    message: str
    rerun: str
    case: str = ""
    backend: str = ""
    mode: str = ""
    dtype: str = ""


class Passed(_Line):
    """A test that failed before, and passed when it was run again: it did not fail."""

    type: Literal["passed"] = "passed"
    test: str


class Exhibit(_Line):
    """Arrays that a figure needs, in an .npz file named relative to the run file's folder."""

    type: Literal["exhibit"] = "exhibit"
    name: str
    file: str
    backend: str = ""
    mode: str = ""
    dtype: str = ""
    caption: str = ""


class End(_Line):
    """How a run ended; `complete` means that every case of the selection was run.

    Attributes:
        unjudged: what turned out not to be judged while tests ran, a line each.
    """

    type: Literal["end"] = "end"
    complete: bool
    exit_status: int
    seconds: float
    unjudged: tuple[str, ...] = ()


class RunData(NamedTuple):
    """A run file, read."""

    run: Run
    records: tuple[Record, ...]
    failures: tuple[Failure, ...]
    exhibits: tuple[Exhibit, ...]
    end: End | None
    notes: tuple[str, ...]
    folder: Path

    @property
    def complete(self) -> bool:
        return self.end is not None and self.end.complete

    @property
    def unjudged(self) -> tuple[str, ...]:
        """What was not judged, known before the tests or come out in them, a line each."""
        return (*self.run.unjudged, *(self.end.unjudged if self.end else ()))

    @property
    def interrupted(self) -> bool:
        """Whether the run stopped before its end; a run of chosen tests is incomplete, but not interrupted."""
        return self.end is None or self.end.exit_status in (2, 3)  # pytest's for Ctrl-C and for its own errors


class RunFile:
    """The run file of one suite, written while its tests run: every line is on disk before the next test starts.

    Args:
        path: `<report-dir>/<platform>/records/<suite>.jsonl`; exhibits go into a folder of the same name beside it.
        clock: seconds, for the length of the run.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = Path(path)
        self._clock = clock
        self._measured: dict[Key, tuple[object, object]] = {}
        self._lines = _lines(self.path)

    def start(self, run: Run) -> None:
        """Begin the file anew, without the exhibits of the run before.

        Raises:
            OSError: the folder cannot be made or written; the message names it.
        """
        shutil.rmtree(self._exhibits, ignore_errors=True)
        self.run = run
        self._lines.write([run])
        self._began = self._clock()

    def record(self, record: Record, measurement: object = None, turn: object = None) -> None:
        """Append a record; one of the same measurement in another turn counts from now on.

        Args:
            measurement: what is the same when a test is run again.
            turn: what differs then.
        Raises:
            ValueError: the run has a record of the same key already, of another measurement or of this turn.
        """
        before = self._measured.get(record.key, (measurement, object()))
        if before[0] != measurement or before[1] == turn:
            raise ValueError(f"two records of one thing: {record.key}; give the cases different names")
        self._measured[record.key] = measurement, turn
        self._lines.append(record)

    def passed(self, test: str) -> None:
        """Append that a test passed, after all."""
        self._lines.append(Passed(test=test))

    def failure(self, test: str, message: str, rerun: str, **fields: Any) -> None:
        """Append a test that failed, with the first line of its message and the command to run it again."""
        self._lines.append(Failure(test=test, message=(message.splitlines() or [""])[0], rerun=rerun, **fields))

    def exhibit(self, name: str, arrays: Mapping[str, np.ndarray], **fields: Any) -> None:
        """Store arrays for a figure; the fields (backend, mode, dtype, caption) tell exhibits of one name apart."""
        parts = (name, fields.get("backend"), fields.get("mode"), fields.get("dtype"))
        file = self._exhibits / ("-".join(part.replace("/", "_") for part in parts if part) + ".npz")
        file.parent.mkdir(exist_ok=True)
        plain: dict[str, Any] = {
            key: array.astype(np.float32) if array.dtype.kind == "V" else array for key, array in arrays.items()
        }  # NumPy files do not keep bfloat16
        np.savez_compressed(file, **plain)
        self._lines.append(Exhibit(name=name, file=str(file.relative_to(self.path.parent)), **fields))

    def end(self, complete: bool, exit_status: int, unjudged: Sequence[str] = ()) -> None:
        """Say that nothing more comes; `complete` where every case of the selection was run."""
        seconds = round(self._clock() - self._began, 1)
        self._lines.append(End(complete=complete, exit_status=exit_status, seconds=seconds, unjudged=tuple(unjudged)))

    @property
    def _exhibits(self) -> Path:
        return self.path.with_suffix("")


def _lines(path: Path) -> JsonLines[Any]:
    kind = Annotated[Run | Record | Failure | Passed | Exhibit | End, Field(discriminator="type")]
    return JsonLines(path, kind, "delete the file and run the suite again")


def read_run(path: Path) -> RunData:
    """Read a run file; a last line that an interruption cut short is left out, with a note.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a line that is no valid line, or no run at the start.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such run file; run the suite first")
    file = _lines(path)
    lines = file.read()
    notes = [f"line {file.cut}, the last of the run file, was cut short and is left out"] if file.cut else []
    if not lines or not isinstance(lines[0], Run):
        raise ValueError(f"{path} does not start with a run: delete it and run the suite again")
    of_type: dict[type, list[Any]] = {
        kind: [line for line in lines if isinstance(line, kind)] for kind in (Record, Exhibit, End)
    }
    records = {record.key: record for record in of_type[Record]}  # the last of each counts
    times = Counter(record.key for record in of_type[Record])
    if again := sum(count > 1 for count in times.values()):
        notes.append(f"{again} of the values were measured up to {max(times.values())} times: the last time counts")
    exhibits = {exhibit.file: exhibit for exhibit in of_type[Exhibit]}
    failures, mended = _failures(lines)
    if mended:
        notes.append(f"tests that failed, and passed when they were run again: {', '.join(mended)}")
    end = of_type[End][-1] if of_type[End] else None
    return RunData(
        lines[0], tuple(records.values()), failures, tuple(exhibits.values()), end, tuple(notes), path.parent
    )


def _failures(lines: Sequence[_Line]) -> tuple[tuple[Failure, ...], list[str]]:
    """The failures that were left, and the tests that passed in the end."""
    failures: dict[str, dict[str, Failure]] = {}  # of a test by message: a fixture may fail after it as well
    mended = []
    for line in lines:
        if isinstance(line, Failure):
            failures.setdefault(line.test, {})[line.message] = line
        elif isinstance(line, Passed) and failures.pop(line.test, None):
            mended.append(line.test)
    return tuple(failure for of_test in failures.values() for failure in of_test.values()), mended
