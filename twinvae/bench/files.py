"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file beside its place and move it there, so that no reader ever finds half of it.

    Raises:
        OSError: the folder cannot be made or written; the message names it.
    """
    beside = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(beside, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise OSError(
            f"cannot write {path}: {error.strerror or error}; make the folder writable, or choose another with "
            "--report-dir or --baseline-dir"
        ) from None
