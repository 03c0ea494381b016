"""`nox -s memory`: this machine's platform, then the TPU compiler's; `--aot` and `--frontier` name chips.

All other arguments go to pytest.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated, NoReturn

import typer

from twinvae.bench.aot.libtpu import INSTALL, installed, platform_of
from twinvae.jax.chips import TPUS

DEFAULT_CHIP = "v6e"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def memory(
    context: typer.Context,
    aot: Annotated[
        str | None, typer.Option(metavar="NAMES", help="compile all that has changed for these, such as v6e,v5e")
    ] = None,
    frontier: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="find out how far they reach (5 minutes each, tpu7x hours; once)"),
    ] = None,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="with --frontier: compile the largest that fits of each in full (hours)")
    ] = False,
    curve: Annotated[
        bool,
        typer.Option("--curve", help="with --frontier: ask for smaller clips, for the picture (minutes each)"),
    ] = False,
) -> None:
    """Run the memory suite here and for the TPU compiler; all other arguments go to pytest.

    Exit status: that of the first run which fails.
    """
    compiled, explored = chips("--aot", aot), chips("--frontier", frontier)
    chosen = [f"--{name}" for name, wanted in (("confirm", confirm), ("curve", curve)) if wanted]
    if chosen and not explored:
        stop(f"{chosen[0]} is for a frontier: name its chips, as in --frontier v6e {chosen[0]}")
    if (compiled or explored) and not installed():
        stop(INSTALL)
    if explored and (status := run("suites.memory.frontier", *explored, *chosen)):
        raise typer.Exit(status)
    statuses = [run("pytest", "suites/memory", *what, *context.args) for what in runs(compiled, explored, context.args)]
    raise typer.Exit(next((status for status in statuses if status), 0))


def chips(option: str, names: str | None) -> tuple[str, ...]:
    """The chips of a list; one that is unknown ends the program."""
    found = tuple(dict.fromkeys(filter(None, (names or "").split(","))))
    if set(found) - TPUS.keys() or (names is not None and not found):
        stop(f"{option} {names}: choose from {', '.join(TPUS)}, separated by commas")
    return found


def stop(words: str) -> NoReturn:
    """End the program because nothing can be done."""
    print(words, file=sys.stderr)
    raise typer.Exit(2)


def runs(aot: tuple[str, ...], frontier: tuple[str, ...], rest: list[str]) -> list[tuple[str, ...]]:
    """The pytest options of each run: one platform is judged at a time."""
    if aot or frontier:
        recalled = [("--platform", platform_of(chip)) for chip in frontier if chip not in aot]
        return [*(("--aot", chip) for chip in aot), *recalled]
    if any(argument.split("=")[0] == "--platform" for argument in rest):
        return [()]
    return [(), ("--platform", platform_of(DEFAULT_CHIP))]


def run(module: str, *arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode


if __name__ == "__main__":
    app()
