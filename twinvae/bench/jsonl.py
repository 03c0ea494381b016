"""JSON Lines of pydantic models: what is read back is valid, or is refused by file and line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from twinvae.bench.files import write_whole

Line = TypeVar("Line", bound=BaseModel)


class JsonLines(Generic[Line]):
    """A file with a model per line; it need not exist.

    Args:
        kind: the model, or a union of several.
        cure: what to do about a line that is not valid, which ends the message.
        appended: whether lines are appended as they come, so that an interruption may have cut the last one short.

    Attributes:
        cut: the number of a last line that was found cut short, and left out, when the file was read; else 0.
    """

    def __init__(self, path: Path, kind: Any, cure: str, appended: bool = True) -> None:
        self.path, self.cut = Path(path), 0
        self._adapter, self._cure, self._appended = TypeAdapter(kind), cure, appended

    def read(self) -> list[Line]:
        """Every line.

        Raises:
            ValueError: one that is not valid.
        """
        content = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        texts, lines, self.cut = content.splitlines(), [], 0
        for number, text in enumerate(texts, 1):
            try:
                lines.append(self._adapter.validate_json(text))
            except ValidationError as error:
                if self._appended and number == len(texts) and not content.endswith("\n"):
                    self.cut = number
                    break
                raise ValueError(f"{self.path}, line {number}: {describe(error)}; {self._cure}") from None
        return lines

    def append(self, line: Line) -> None:
        """Put a line on disk, so that an interruption loses nothing that was found."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line.model_dump_json() + "\n")

    def write(self, lines: Iterable[Line], **how: Any) -> None:
        """Begin the file anew with these; `how` is for pydantic.

        Raises:
            OSError: the folder cannot be made or written; the message names the file.
        """
        write_whole(self.path, "".join(f"{line.model_dump_json(**how)}\n" for line in lines))


def describe(error: ValidationError) -> str:
    """pydantic's complaint on one line: each field, what is wrong, and what was found."""
    return "; ".join(
        f"{'.'.join(map(str, problem['loc']))}: {problem['msg']} (found {problem['input']!r:.60})"
        if problem["loc"]
        else problem["msg"]
        for problem in error.errors()[:3]
    )
