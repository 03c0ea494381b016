"""Baselines: the numbers agreed on, `<baseline-dir>/<platform>/<suite>.json`, one entry per line."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from twinvae.bench.files import write_whole
from twinvae.bench.jsonl import describe
from twinvae.bench.records import Key, Record, Run, RunData, Value

# What a run says of itself beyond where its numbers come from.
_NOT_KEPT = {"type", "command", "options", "selection", "nan_input", "storage", "unjudged", "ports"}


class Known(BaseModel):
    """Why a value that fails was accepted, and who is to mend it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str = Field(min_length=1)
    owner: str = Field(min_length=1)


class Entry(BaseModel):
    """A value agreed on, and which of the baseline's runs measured it; `known` where it fails and was accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    case: str
    backend: str = ""
    operation: str = ""
    mode: str = ""
    dtype: str = ""
    preset: str = ""
    shape: str = ""
    metric: str
    layer: str = ""
    value: Value | None
    run: int = Field(0, ge=0)
    known: Known | None = None

    def key(self, suite: str) -> Key:
        return Key(suite, *(getattr(self, name) for name in Key._fields[1:]))


class Baseline(BaseModel):
    """The entries of one suite on one platform, and the runs they come from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    runs: tuple[Run, ...] = Field(min_length=1)
    entries: tuple[Entry, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Baseline:
        seen: dict[Key, int] = {}
        for index, entry in enumerate(self.entries):
            key = entry.key(self.suite)
            if key in seen:
                raise ValueError(f"entries {seen[key]} and {index} are both of: {key}")
            seen[key] = index
            if entry.run >= len(self.runs):
                raise ValueError(f"entry {index} ({key}) names run {entry.run}, and there are {len(self.runs)}")
        return self

    @property
    def suite(self) -> str:
        return self.runs[0].suite

    @cached_property
    def by_key(self) -> dict[Key, Entry]:
        return {entry.key(self.suite): entry for entry in self.entries}


def baseline_path(folder: Path, platform: str, suite: str) -> Path:
    return Path(folder) / platform / f"{suite}.json"


def read_baseline(path: Path) -> Baseline | None:
    """Read and check a baseline; None where there is none yet.

    Raises:
        ValueError: the file is no JSON, a field is missing, unknown or of the wrong type, or an entry is there twice.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        baseline = Baseline.model_validate(content)
    except FileNotFoundError:
        return None
    except ValidationError as error:
        problem = describe(error)
    except ValueError as error:
        problem = f"not JSON: {error}"
    else:
        if baseline.suite == Path(path).stem:
            return baseline
        problem = f"it is of the suite {baseline.suite!r}, expected {Path(path).stem!r}"
    raise ValueError(
        f"{path} is not a valid baseline: {problem}; restore it from version control, or delete it and accept a new "
        "one with `nox -s baseline`"
    )


def write_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline, sorted, an entry per line, so that a change of one value is a change of one line.

    Raises:
        OSError: the folder cannot be written.
    """
    runs = [run.model_dump_json(exclude=_NOT_KEPT) for run in baseline.runs]
    entries = [entry.model_dump_json(exclude_defaults=True) for entry in baseline.entries]
    lines = ["{", '"format": 1,', '"runs": [', ",\n".join(runs), "],", '"entries": [', ",\n".join(entries), "]", "}"]
    write_whole(Path(path), "\n".join(lines) + "\n")


def stored(record: Record) -> float | None:
    """A record's value as a baseline keeps it: three digits of an error are plenty, everything else stays whole."""
    value = record.value
    is_error = record.kind == "exact" and record.better == "lower"
    return float(f"{value:.3g}") if is_error and value is not None and abs(value) < 1 else value


def updated(old: Baseline | None, data: RunData, broken: Collection[Key] = (), known: Known | None = None) -> Baseline:
    """The baseline with the values of a complete run in it, which replace all that the run selected.

    A value that is not sure, because the machine was busy, replaces nothing; nor does one that has no limit of its
    own while others of the same case are past theirs, unless all of them are accepted as known. Of a port, none that
    has no limit is kept beside what is known of the same operation: when that is mended it moves, up or down.

    Args:
        broken: keys of the values that are past their limit.
        known: why they are accepted; None: they are not said to be known.
    """
    selection = data.run.selection
    cases = {key._replace(metric="") for key in broken}
    tainted = {
        record.key
        for record in data.records
        if record.key in broken or (record.limit is None and record.key._replace(metric="") in cases)
    }
    unsure = {record.key for record in data.records if not record.sure}
    if known is None:
        unsure |= tainted - set(broken)
    beside = set()
    if known is not None and selection.ports_alone:
        near = {(key.backend, key.operation) for key in broken}
        free = {record.key for record in data.records if record.limit is None}
        beside = {key for key in free if (key.backend, key.operation) in near}
    measured = {record.key: stored(record) for record in data.records if record.key not in unsure | beside}
    kept: dict[Key, Entry] = {}
    for key, entry in (old.by_key if old else {}).items():
        replaced = selection.holds(key.backend, key.mode, key.dtype, key.preset)
        if key not in measured and (key in unsure or not replaced):
            kept[key] = entry
    sources = sorted({entry.run for entry in kept.values()})
    entries = {key: entry.model_copy(update={"run": sources.index(entry.run)}) for key, entry in kept.items()}
    for key, value in measured.items():
        fields = dict(zip(Key._fields[1:], key[1:], strict=True))
        accepted = known if key in tainted else None
        entries[key] = Entry(**fields, value=value, run=len(sources), known=accepted)
    kept_runs = [old.runs[index] for index in sources]
    return Baseline(runs=(*kept_runs, data.run), entries=tuple(entries[key] for key in sorted(entries)))


class Change(NamedTuple):
    """An entry before and after; None where it is not there."""

    key: Key
    before: Entry | None
    after: Entry | None


def difference(old: Baseline | None, new: Baseline) -> list[Change]:
    """Entries that are new, changed in value, or removed."""
    before, after = old.by_key if old else {}, new.by_key
    changes = [Change(key, before.get(key), after.get(key)) for key in sorted({*before, *after})]
    return [
        c
        for c in changes
        if not (c.before and c.after and _same(c.before.value, c.after.value) and c.before.known == c.after.known)
    ]


def _same(one: float | None, other: float | None) -> bool:
    return one == other or (one != one and other != other)  # NaN is the same as NaN here


def changed_inputs(old: Iterable[Run], run: Run) -> list[str]:
    """What differs between the runs of a baseline and this one, in words: labels, versions, machine."""
    found: dict[str, None] = {}
    for source in old:
        for name in ("weights", "clip", "seed", "device", "machine"):
            if getattr(source, name) != getattr(run, name):
                found[f"{name} {getattr(source, name)} -> {getattr(run, name)}"] = None
        for package in sorted({*source.versions, *run.versions}):
            was, now = source.versions.get(package, "none"), run.versions.get(package, "none")
            if was != now:
                found[f"{package} {was} -> {now}"] = None
    return list(found)
