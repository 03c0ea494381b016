"""The catalogue of porting faults: `catalogue/*.toml`, one file per class of faults, read and checked."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from twinvae.bench.jsonl import describe

FOLDER = Path(__file__).parent / "catalogue"


class Edit(BaseModel):
    """One replacement in one file.

    Attributes:
        file: relative to the checkout.
        find: text that occurs exactly once in the file.
    """

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
        equivalent: why no test can see it; empty for all that some test should.
        file, find, replace: the one edit; or `edit`, several.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: str
    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    models: str = Field(min_length=1)
    kind: Literal["value", "cost"]
    suite: Literal["parity", "tiling", "frames", "speed", "memory"]
    equivalent: str = ""
    file: str | None = None
    find: str | None = None
    replace: str | None = None
    edit: tuple[Edit, ...] = ()

    @model_validator(mode="after")
    def _edited_in_one_way(self) -> Fault:
        single = [self.file, self.find, self.replace]
        if self.edit and any(part is not None for part in single):
            raise ValueError("it has both edits and a file, find or replace of its own: give one or the other")
        if not self.edit and any(part is None for part in single):
            raise ValueError("it needs file, find and replace, or a list of edits")
        _ = self.edits  # checks the single one
        return self

    @property
    def edits(self) -> tuple[Edit, ...]:
        return self.edit or (Edit(file=self.file, find=self.find, replace=self.replace),)


def read_catalogue(folder: Path = FOLDER) -> tuple[Fault, ...]:
    """Every fault, in the order of files and of faults in them.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: a file is no TOML, a fault is not valid, or two have one name; the message says which.
    """
    faults = [fault for path in sorted(Path(folder).glob("*.toml")) for fault in _read(path)]
    if not faults:
        raise FileNotFoundError(f"no faults in {folder}: expected *.toml with [[fault]] tables")
    twice = [name for name, count in Counter(fault.name for fault in faults).items() if count > 1]
    if twice:
        groups = sorted({fault.group for fault in faults if fault.name in twice})
        raise ValueError(f"faults of one name: {', '.join(twice)} (in {', '.join(groups)}); give each its own")
    return tuple(faults)


def _read(path: Path) -> Sequence[Fault]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    if tables.keys() != {"fault"} or not isinstance(tables["fault"], list):
        raise ValueError(f"{path} holds {', '.join(tables) or 'nothing'}: expected a list of [[fault]] tables alone")
    faults = []
    for number, table in enumerate(tables["fault"], 1):
        try:
            faults.append(Fault(group=path.stem, **table))
        except (ValidationError, TypeError) as error:
            what = describe(error) if isinstance(error, ValidationError) else str(error)
            raise ValueError(f"{path}, fault {number} ({table.get('name', 'without a name')}): {what}") from None
    return faults
