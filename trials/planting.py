"""Copies of the checkout, and faults planted in them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from trials.catalogue import Edit, Fault

ROOT = Path(__file__).parents[1]
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".nox", "build", "dist", "__pycache__", ".*_cache", "*.egg-info")


class Stale(ValueError):  # noqa: N818, the name of a state that a fault is in
    """The place of a fault is gone: its text occurs no longer, or more than once."""


def checkout_copy(into: Path, root: Path = ROOT) -> Path:
    """Copy what git tracks or would track into a new folder; without git, everything but caches and environments."""
    into = Path(into)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=root, capture_output=True, check=False
    )
    if listed.returncode:
        return Path(shutil.copytree(root, into, ignore=NOT_COPIED))
    for name in filter(None, os.fsdecode(listed.stdout).split("\0")):
        source, target = Path(root) / name, into / name
        if source.is_file():  # git lists what was deleted and not yet committed
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return into


def edited(fault: Fault, copy: Path) -> dict[Path, str]:
    """The text of every file that the fault changes.

    Raises:
        Stale: the text to be replaced is not there exactly once.
    """
    texts: dict[Path, str] = {}
    for edit in fault.edits:
        path = Path(copy) / edit.file
        texts[path] = _replaced(edit, texts[path] if path in texts else _text(path))
    return texts


def plant(fault: Fault, copy: Path) -> dict[Path, str]:
    """Write the fault into a copy, and give back what was there, for `unplant`.

    Raises:
        Stale: its place is gone; nothing is written then.
    """
    return put(edited(fault, copy))


def put(texts: dict[Path, str]) -> dict[Path, str]:
    """Write texts into files, and give back what was there, for `unplant`."""
    before = {path: path.read_text(encoding="utf-8") for path in texts}
    _write(texts)
    return before


def unplant(before: dict[Path, str]) -> None:
    _write(before)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Stale(f"{path.name} is not in the checkout any more") from None


def _replaced(edit: Edit, text: str) -> str:
    found = text.count(edit.find)
    if found != 1:
        raise Stale(f"{edit.file} holds {found} times, and should hold once: {edit.find.strip().splitlines()[0]!r}")
    return text.replace(edit.find, edit.replace)


def _write(texts: dict[Path, str]) -> None:
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
        # Python tells a stale compiled file by size and whole seconds, and either may be the same.
        Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)
