"""Subcommands of `twinvae` that others register, under the entry-point group `twinvae.commands`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer

GROUP = "twinvae.commands"


def registered() -> dict[str, EntryPoint]:
    """Commands of others, a typer app or a function each, not loaded yet."""
    return {point.name: point for point in entry_points(group=GROUP)}


def command_of(point: EntryPoint) -> Any:
    """The command of an entry point; where it cannot be loaded, one that says why."""
    try:
        found = point.load()
        command = typer.main.get_command(found if isinstance(found, typer.Typer) else _alone(found))
    except Exception as error:
        why = f"{point.name} cannot be loaded from {point.value}: {type(error).__name__}: {error}"

        def broken() -> None:
            print(why, file=sys.stderr)
            raise typer.Exit(2)

        broken.__doc__ = why
        command = typer.main.get_command(_alone(broken, allow_extra_args=True, ignore_unknown_options=True))
    command.name = point.name
    return command


def _alone(function: Callable[..., Any], **settings: bool) -> typer.Typer:
    """A typer app of one function."""
    alone = typer.Typer(add_completion=False)
    alone.command(context_settings=settings)(function)
    return alone


def exit_status(command: Callable[..., Any], arguments: list[str] | None, name: str) -> int:
    """Run a command: 0 well, 1 something got worse or failed, 2 nothing could be done."""
    try:
        command(args=arguments, prog_name=name)
    except SystemExit as end:
        return int(end.code or 0)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def run_alone(point: EntryPoint, arguments: list[str]) -> int:
    """Run a command that is registered, without loading any other."""
    return exit_status(command_of(point), arguments, f"twinvae {point.name}")
