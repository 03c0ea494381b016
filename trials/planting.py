"""Copies of the checkout, and changes planted in them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trials.beginning import Changes
from trials.catalogue import Edit, Fault
from trials.mutation import Mutant

ROOT = Path(__file__).parents[1]
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".nox", "build", "dist", "__pycache__", ".*_cache", "*.egg-info")


def checkout_copy(into: Path, root: Path = ROOT) -> Path:
    """Copy what git tracks or would track into a new folder; without git, everything but caches and environments."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, capture_output=True, check=False)
    if listed.returncode:
        return Path(shutil.copytree(root, into, ignore=NOT_COPIED))
    for name in filter(None, os.fsdecode(listed.stdout).split("\0")):
        source, target = Path(root) / name, into / name
        if source.is_file():  # git lists what was deleted and not yet committed
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return into


def changes(planted: Fault | Mutant, copy: Path) -> Changes:
    """The text of every file that is changed, before and after.

    Raises:
        FileNotFoundError: a file is gone.
        ValueError: the text to be replaced is not there exactly once.
    """
    before = {file: (Path(copy) / file).read_text(encoding="utf-8") for file in planted.files}
    if isinstance(planted, Mutant):
        return {planted.file: (before[planted.file], planted.source)}
    after = dict(before)
    for edit in planted.edit:
        after[edit.file] = _replaced(edit, after[edit.file])
    return {file: (before[file], after[file]) for file in before}


@contextmanager
def in_place(texts: Changes, copy: Path) -> Iterator[None]:
    """While the block runs, the changes are in the copy; then what was there is back, whatever happens."""
    _write({Path(copy) / file: after for file, (_, after) in texts.items()})
    try:
        yield
    finally:
        _write({Path(copy) / file: before for file, (before, _) in texts.items()})


def _replaced(edit: Edit, text: str) -> str:
    found = text.count(edit.find)
    if found != 1:
        raise ValueError(
            f"{edit.file} holds {found} times, and should hold once: {edit.find.strip().splitlines()[0]!r}"
        )
    return text.replace(edit.find, edit.replace)


def _write(texts: dict[Path, str]) -> None:
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
        # Python tells a stale compiled file by size and whole seconds, and either may be the same.
        Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)
