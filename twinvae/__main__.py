"""The command `twinvae`, also `python -m twinvae`; it says what to install where the suites' packages are missing."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, requires, version

INSTALL = "pip install 'twinvae[suites]' (in a checkout: pip install -c constraints.txt '.[suites]')"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 well, 1 something got worse or failed, 2 nothing could be done."""
    if lacking := missing():
        print(f"the command needs packages that are not installed: {', '.join(lacking)}; {INSTALL}", file=sys.stderr)
        return 2
    from twinvae.bench.cli import main as run

    return run(arguments)


def missing() -> list[str]:
    """What the extra `suites` asks for and this environment lacks."""
    try:
        wanted = [line for line in requires("twinvae") or () if re.search(r"extra == ['\"]suites['\"]", line)]
    except PackageNotFoundError:  # run from sources that were not installed
        return []
    names = [re.split(r"[^\w.-]", line)[0] for line in wanted]
    return [name for name in names if not _installed(name)]


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main())
