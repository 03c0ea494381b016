"""`nox -s memory`: this machine's platform, then the TPU compiler's; `--aot` and `--frontier` name chips.

All other arguments go to pytest.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from twinvae.bench.aot.libtpu import INSTALL, installed, platform_of
from twinvae.jax.chips import TPUS

DEFAULT_CHIP = "v6e"


def main(arguments: list[str] | None = None) -> int:
    """Exit status: that of the first run which fails."""
    parser = argparse.ArgumentParser(prog="python -m suites.memory", description=__doc__, allow_abbrev=False)
    parser.add_argument("--aot", type=chips, default=(), metavar="TPUS",
                        help="compile all that has changed for these, such as v6e,v5e")  # fmt: skip
    parser.add_argument("--frontier", type=chips, default=(), metavar="TPUS",
                        help="find out how far these reach (5 minutes each, tpu7x hours; once)")  # fmt: skip
    parser.add_argument("--confirm", action="store_true",
                        help="with --frontier: compile the largest that fits of each in full (hours)")  # fmt: skip
    parser.add_argument("--curve", action="store_true",
                        help="with --frontier: ask for smaller clips, too, for the picture (minutes each)")  # fmt: skip
    given, rest = parser.parse_known_args(arguments)
    chosen = [f"--{name}" for name in ("confirm", "curve") if getattr(given, name)]
    if chosen and not given.frontier:
        parser.error(f"{chosen[0]} is for a frontier: name its chips, as in --frontier v6e {chosen[0]}")
    if (given.aot or given.frontier) and not installed():
        print(INSTALL, file=sys.stderr)
        return 2
    if given.frontier and (status := run("suites.memory.frontier", *given.frontier, *chosen)):
        return status
    statuses = [run("pytest", "suites/memory", *what, *rest) for what in runs(given.aot, given.frontier, rest)]
    return next((status for status in statuses if status), 0)


def chips(names: str) -> tuple[str, ...]:
    """A list of chips, as an argument.

    Raises:
        argparse.ArgumentTypeError: one of them is unknown.
    """
    found = tuple(dict.fromkeys(filter(None, names.split(","))))
    if not found or set(found) - TPUS.keys():
        raise argparse.ArgumentTypeError(f"{names}: choose from {', '.join(TPUS)}, separated by commas")
    return found


def runs(aot: tuple[str, ...], frontier: tuple[str, ...], rest: list[str]) -> list[tuple[str, ...]]:
    """The pytest options of each run: one platform is judged at a time."""
    if aot or frontier:
        recalled = [("--platform", platform_of(chip)) for chip in frontier if chip not in aot]
        return [*(("--aot", chip) for chip in aot), *recalled]
    if any(argument.split("=")[0] in ("--platform", "--help", "-h") for argument in rest):
        return [()]
    return [(), ("--platform", platform_of(DEFAULT_CHIP))]


def run(module: str, *arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
