"""The command `twinvae`, also `python -m twinvae`; it says what to install where the suites' packages are missing."""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, entry_points, metadata, requires, version

INSTALL = "pip install 'twinvae[{0}]' (in a checkout: pip install -c constraints.txt '.[{0}]')"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 well, 1 something got worse or failed, 2 nothing could be done."""
    arguments = sys.argv[1:] if arguments is None else arguments
    points = {point.name: point for point in entry_points(group="twinvae.commands")}
    point = points.get(arguments[0]) if arguments else None
    package = point.module.partition(".")[0] if point else ""  # of ours, also the name of the extra that it asks for
    extra = package if package in extras() else "suites"
    if lacking := missing(extra):
        print(
            f"the command needs packages that are not installed: {', '.join(lacking)}; {INSTALL.format(extra)}",
            file=sys.stderr,
        )
        return 2
    if point and extra == package:  # which loads nothing of the instrument
        from twinvae.commands import run_alone

        return run_alone(point, arguments[1:])
    from twinvae.bench.cli import main as run

    return run(arguments)


def extras() -> list[str]:
    try:
        return metadata("twinvae").get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return []


def missing(extra: str = "suites") -> list[str]:
    """What an extra asks for and this environment lacks."""
    try:
        wanted = [line for line in requires("twinvae") or () if re.search(rf"extra == ['\"]{extra}['\"]", line)]
    except PackageNotFoundError:  # run from sources that were not installed
        return []
    inside = [found[1] for line in wanted if (found := re.match(r"twinvae\[(\w+)\]", line))]
    names = [re.split(r"[^\w.-]", line)[0] for line in wanted]
    return [name for name in names if not _installed(name)] + [name for extra in inside for name in missing(extra)]


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    sys.exit(main())
