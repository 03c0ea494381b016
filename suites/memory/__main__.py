"""`nox -s memory`: this machine's platform, then those of compilers alone; `--aot` and `--frontier` name chips.

All other arguments go to pytest.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from twinvae.bench.aot import cuda
from twinvae.bench.aot.compilers import missing, platform_of
from twinvae.jax.chips import CHIPS, GPUS

DEFAULT_CHIPS = ("v6e", "h100")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def memory(
    context: typer.Context,
    aot: Annotated[
        str | None, typer.Option(metavar="NAMES", help="compile all that has changed for these, such as v6e,h100")
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
    describe: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"keep what XLA knows of this machine's card, of {', '.join(GPUS)}"),
    ] = None,
) -> None:
    """Run the memory suite here and for compilers without their devices; all other arguments go to pytest.

    Exit status: that of the first run which fails.
    """
    if describe is not None:
        print(f"kept in {described(describe)}: programs for it are new now, and need compiling")
        return
    compiled, explored = chips("--aot", aot), chips("--frontier", frontier)
    chosen = [f"--{name}" for name, wanted in (("confirm", confirm), ("curve", curve)) if wanted]
    if chosen and not explored:
        stop(f"{chosen[0]} is for a frontier: name its chips, as in --frontier v6e {chosen[0]}")
    if reason := next(filter(None, map(missing, (*compiled, *explored))), ""):
        stop(reason)
    if explored and (status := run("suites.memory.frontier", *explored, *chosen)):
        raise typer.Exit(status)
    statuses = [run("pytest", "suites/memory", *what, *context.args) for what in runs(compiled, explored, context.args)]
    raise typer.Exit(next((status for status in statuses if status), 0))


def chips(option: str, names: str | None) -> tuple[str, ...]:
    """The chips of a list; one that is unknown ends the program."""
    found = tuple(dict.fromkeys(filter(None, (names or "").split(","))))
    if set(found) - CHIPS.keys() or (names is not None and not found):
        stop(f"{option} {names}: choose from {', '.join(CHIPS)}, separated by commas")
    return found


def described(card: str) -> Path:
    """Keep the description of this machine's card; what stands in the way ends the program."""
    if card not in GPUS:
        stop(f"--describe {card}: choose one of {', '.join(GPUS)}, or enter the card in twinvae/jax/chips.py first")
    try:
        return cuda.save(card)
    except ValueError as error:
        stop(str(error))


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
    return [(), *(("--platform", platform_of(chip)) for chip in DEFAULT_CHIPS)]


def run(module: str, *arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode


if __name__ == "__main__":
    app()
