"""The catalogue of porting faults: `catalogue/*.toml`, one file per class of faults, read and checked."""

from __future__ import annotations

import tomllib
from collections import Counter
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from twinvae.bench.jsonl import describe

FOLDER = Path(__file__).parent / "catalogue"
Table = TypeVar("Table", bound=BaseModel)


class Edit(BaseModel):
    """One replacement in one file, relative to the checkout, of a text that it holds exactly once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    find: str = Field(min_length=1)
    replace: str

    @model_validator(mode="after")
    def _sound(self) -> Edit:
        if self.find == self.replace:
            raise ValueError(f"find and replace are the same text in {self.file}: it is no fault")
        if Path(self.file).is_absolute() or ".." in Path(self.file).parts:
            raise ValueError(f"file {self.file!r} lies outside of the checkout: name it relative to the checkout")
        return self


class Fault(BaseModel):
    """A mistake that a port could hold.

    Attributes:
        group: the class of faults, which is the name of its file.
        models: the real mistake, in a sentence.
        kind: "value" gives other numbers; "cost" gives the same ones, and takes more to get there.
        suite: the one that should notice.
        seen_by: the test that sees it soonest, by pytest's id, which goes before all others; empty where a run without
            a fault says what runs it first. It does not of what happens in a process that a test starts.
        equivalent: why no test can see it; empty for all that some test should.
        before_case: whether it was planted before the case existed that catches it, and missed then.
        edit: its edits; file, find and replace of a single one may stand beside the other fields instead.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str
    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    models: str = Field(min_length=1)
    kind: Literal["value", "cost"]
    suite: Literal["parity", "tiling", "frames", "speed", "memory"]
    seen_by: str = ""
    equivalent: str = ""
    before_case: bool = False
    edit: tuple[Edit, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _in_one_form(cls, given: dict[str, Any]) -> dict[str, Any]:
        single = {name: given[name] for name in Edit.model_fields if name in given}
        if single and "edit" in given:
            raise ValueError("it has both edits and a file, find or replace of its own: give one or the other")
        rest = {name: value for name, value in given.items() if name not in single}
        return rest if "edit" in given else rest | {"edit": [single]}

    @property
    def files(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(edit.file for edit in self.edit))


def read_catalogue(folder: Path = FOLDER) -> tuple[Fault, ...]:
    """Every fault, in the order of files and of faults in them.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: a file is no TOML, a fault is not valid, or two have one name; the message says which.
    """
    paths = sorted(Path(folder).glob("*.toml"))
    faults = [fault for path in paths for fault in read_tables(path, "fault", Fault, group=path.stem)]
    if not faults:
        raise FileNotFoundError(f"no faults in {folder}: expected *.toml with [[fault]] tables")
    twice = [name for name, count in Counter(fault.name for fault in faults).items() if count > 1]
    if twice:
        groups = sorted({fault.group for fault in faults if fault.name in twice})
        raise ValueError(f"faults of one name: {', '.join(twice)} (in {', '.join(groups)}); give each its own")
    return tuple(faults)


def read_tables(path: Path, name: str, kind: type[Table], **known: str) -> list[Table]:
    """The [[name]] tables that a file consists of.

    Args:
        known: fields of all of them.
    Raises:
        ValueError: it is no TOML, holds something else, or a table is not valid; the message says where.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    if tables.keys() != {name} or not isinstance(tables[name], list):
        raise ValueError(f"{path} holds {', '.join(tables) or 'nothing'}: expected a list of [[{name}]] tables alone")
    found = []
    for number, table in enumerate(tables[name], 1):
        try:
            found.append(kind.model_validate(known | table))
        except ValidationError as error:
            raise ValueError(f"{path}, {name} {number}: {describe(error)}") from None
    return found
