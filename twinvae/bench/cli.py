"""The command `twinvae` and its subcommands; others register under the entry-point group `twinvae.commands`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from typer.core import TyperGroup

import twinvae
from twinvae.bench.acceptance import accept
from twinvae.bench.baselines import Known
from twinvae.bench.cases import export
from twinvae.bench.checking import run_suites, suite_options
from twinvae.bench.diagnosis.diagnose import SECONDS, diagnosis_lines
from twinvae.bench.diagnosis.experiments import CASES
from twinvae.bench.diagnosis.run import BESIDE, diagnose_backend
from twinvae.bench.environment import prepare_jax
from twinvae.bench.files import write_whole
from twinvae.bench.models import Model
from twinvae.bench.new_port import TEMPLATE
from twinvae.bench.pages import Judged
from twinvae.bench.places import BASELINES, CHECKOUT, LOCAL_REPORTS, suite_names
from twinvae.bench.publishing import publish as publish_pages
from twinvae.bench.report import judge_suites, write_report
from twinvae.commands import command_of, exit_status, registered
from twinvae.frames import latent_count
from twinvae.jax.chips import CHIPS
from twinvae.port import is_port
from twinvae.registry import installed

OF_OUTPUTS = "suites/parity/test_outputs.py"
OF_PORTS = ("parity", "frames", "tiling")  # what a port is judged in: whether it is right
STATUS = "Exit status: 0 well; 1 something got worse, failed, or does not fit; 2 nothing could be done."


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 well, 1 something got worse or failed, 2 nothing could be done."""
    return exit_status(app, arguments, "twinvae")


class Commands(TyperGroup):
    """Our own subcommands, and those that others register; one of theirs that is broken breaks no other."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*self.commands, *sorted(registered().keys() - self.commands.keys())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        point = registered().get(cmd_name)
        return self.commands.get(cmd_name) or (point and command_of(point))


app = typer.Typer(
    cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, epilog=STATUS,
    help="Is a JAX port of CogVideoX's video VAE right, fast and lean? Suites that hold it to diffusers on PyTorch.",
)  # fmt: skip


def _starting_with(*names: str) -> Callable[[str], list[str]]:
    """Completion of a list of names that commas separate."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in names if name.startswith(last)]

    return complete


Suites = Annotated[
    list[str] | None,
    typer.Argument(help="default: all that have a run", autocompletion=_starting_with(*suite_names())),
]  # fmt: skip
Platform = Annotated[str | None, typer.Option(metavar="NAME", help="default: every platform that has a run")]
ReportDir = Annotated[Path, typer.Option(metavar="DIR", help="where the runs' records are")]
BaselineDir = Annotated[Path | None, typer.Option(metavar="DIR", help="where baselines are (default: baselines)")]
Yes = Annotated[bool, typer.Option("--yes", help="write without asking")]


def check(
    backend: Annotated[
        str | None,
        typer.Argument(
            help="what to check: a port's file (port.py, port.py:make), a module (package.module:make), or a backend "
            "that is installed, such as flax; several: flax,torchax",
            autocompletion=_starting_with(*installed()),
        ),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PYTEST",
            help="after --, arguments for pytest, such as -k posterior, or a test: suites/parity/test_vae.py::test_x",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help=f"of {', '.join(suite_names())}, separated by commas (default: all; of a port {', '.join(OF_PORTS)})",
            autocompletion=_starting_with(*suite_names()),
        ),
    ] = None,
    **given: Any,
) -> None:
    """Run the suites on a backend, compare with the baselines, and write pages to ./reports/local/PLATFORM/."""
    prepare_jax()
    more, outputs = list(more or ()), given.get("outputs")
    if outputs is not None and backend and backend.startswith("-"):  # pytest's, where no backend is named
        backend, more = None, [backend, *more]
    if backend is None and outputs is None:
        raise ValueError("name what to check: a port's file, a module, a backend, or --outputs DIR")
    if backend is None:
        more += [] if any(argument.startswith("suites/") for argument in more) else [OF_OUTPUTS]
    of_ports = OF_PORTS if backend is None or any(map(is_port, backend.split(","))) else suite_names()
    suites = of_ports if suite is None else [name.strip() for name in suite.split(",") if name.strip()]
    options = {name.replace("_", "-"): value for name, value in given.items()}
    status = run_suites(suites, {"backend": backend, **options}, more)
    raise typer.Exit(status if status in (0, 1) else 2)


_own = inspect.signature(check, eval_str=True).parameters
check.__signature__ = inspect.Signature([
    *(parameter for name, parameter in _own.items() if name != "given"),
    *(option.parameter for option in suite_options() if option.name != "--backend"),
])  # fmt: skip
app.command(epilog=STATUS)(check)


@app.command(name="new-port", epilog=STATUS)
def new_port(path: Annotated[Path, typer.Argument(metavar="FILE", help="such as port.py")]) -> None:
    """Write a commented template of a port, which runs as it stands."""
    if path.suffix != ".py":
        raise ValueError(f"{path}: a port is a Python file; give it a name that ends in .py")
    with path.open("x") as file:
        file.write(TEMPLATE.format(name=path))
    print(f"wrote {path}; next: twinvae check {path} --preset tiny")


@app.command(name="export-cases", epilog=STATUS)
def export_cases(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="where cases, inputs and the checkpoint are written")],
    preset: Annotated[str, typer.Option(metavar="NAME", help=f"of {', '.join(twinvae.PRESETS)}")] = "tiny",
    weights: Annotated[str | None, typer.Option(metavar="PATH", help="a diffusers folder or hub id instead")] = None,
    subfolder: Annotated[str | None, typer.Option(metavar="NAME", help="the VAE's folder inside --weights")] = None,
    dtype: Annotated[str, typer.Option(metavar="NAME", help="float32 or float64")] = "float32",
    seed: Annotated[int, typer.Option(metavar="N", help="of seeded weights and random inputs")] = 0,
) -> None:
    """Write inputs for a port that runs elsewhere; `twinvae check --outputs DIR` judges what it makes of them."""
    if dtype not in ("float32", "float64"):
        raise ValueError(f"--dtype {dtype}: expected float32 or float64")
    model = Model.of_preset(preset, seed) if weights is None else Model.of_checkpoint(weights, subfolder, seed)
    print(f"wrote {export(folder, model, dtype, seed)}; it says what is asked for")


@app.command(epilog=STATUS)
def diagnose(
    backend: Annotated[str, typer.Argument(help="what to look at, such as flax, or a port: port.py, port.py:make")],
    case: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="one experiment, such as 'two latents' or 'saved folder'"),
    ] = None,
    preset: Annotated[str | None, typer.Option(metavar="NAME", help="whose architecture (default: tiny)")] = None,
    weights: Annotated[str | None, typer.Option(metavar="PATH", help="a diffusers folder or hub id instead")] = None,
    subfolder: Annotated[str | None, typer.Option(metavar="NAME", help="the VAE's folder inside --weights")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="of seeded weights and inputs")] = 0,
    seconds: Annotated[float, typer.Option(metavar="N", help="how long to look at the most")] = SECONDS,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="write the findings there as well")] = None,
) -> None:
    """What does a port do another way than diffusers? Small clips, and signatures of mistakes that reproduce it."""
    prepare_jax()
    known = [*dict.fromkeys(one.name for one in CASES), *BESIDE]
    if unknown := [name for name in case or () if name not in known]:
        raise ValueError(f"--case {unknown[0]!r}: unknown; choose from {'; '.join(known)}")
    chosen = [one for one in CASES if not case or one.name in case]
    model = Model.of_checkpoint(weights, subfolder, seed) if weights else Model.of_preset(preset or "tiny", seed)
    found = diagnose_backend(
        backend, model, named=bool(weights or preset), cases=chosen, seed=seed, seconds=seconds,
        beside=[name for name in BESIDE if not case or name in case],
        say=lambda finding: print(f"found: {finding.headline}", flush=True),
    )  # fmt: skip
    print(*diagnosis_lines(found), sep="\n")
    if json:
        write_whole(json, dumps([one.model_dump(mode="json") for one in found.findings], indent=1) + "\n")
    raise typer.Exit(int(bool(found.findings)))


@app.command(epilog=STATUS)
def plan(
    clip: Annotated[
        str, typer.Argument(metavar="CLIP", help="frames x height x width of the video, such as 81x480x720")
    ],
    backend: Annotated[str, typer.Option(metavar="NAME", help="whose forms to choose from")] = "flax",
    operation: Annotated[str, typer.Option(metavar="NAME", help="decode or encode")] = "decode",
    preset: Annotated[str, typer.Option(metavar="NAME", help=f"of {', '.join(twinvae.PRESETS)}")] = "cogvideox-2b",
    weights: Annotated[str | None, typer.Option(metavar="PATH", help="a diffusers folder or hub id instead")] = None,
    subfolder: Annotated[str | None, typer.Option(metavar="NAME", help="the VAE's folder inside --weights")] = None,
    dtype: Annotated[str, typer.Option(metavar="NAME", help="of weights and activations")] = "bfloat16",
    chip: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"of {', '.join(CHIPS)}, by its compiler (default: this machine's device)"),
    ] = None,
    devices: Annotated[int, typer.Option(metavar="N", min=1, help="of the chip's host that share a frame's rows")] = 1,
    memory_budget: Annotated[
        str | None, typer.Option(metavar="SIZE", help="such as 16GiB (default: what the device has)")
    ] = None,
    tiling: Annotated[bool, typer.Option("--tiling", help="in diffusers' tiles from the start")] = False,
) -> None:
    """Does a clip fit a device, and in which form? Compiles programs, the fastest first: minutes for large ones."""
    prepare_jax()
    frames, height, width = _clip(clip)
    if operation not in ("decode", "encode"):
        raise ValueError(f"--operation {operation}: expected decode or encode")
    if chip is not None and chip not in CHIPS:
        raise ValueError(f"--chip {chip}: unknown chip; choose one of {', '.join(CHIPS)}")
    if chip is None and devices > 1:
        raise ValueError(f"--devices {devices}: they are devices of a chip; name it, as in --chip v6e")
    vae = twinvae.load(backend, weights=weights, subfolder=subfolder, preset=preset, dtype=dtype,
                       memory_budget=memory_budget)  # fmt: skip
    if tiling:
        vae.enable_tiling()
    config, shape = vae.config, (1, frames, height, width, vae.config.in_channels)
    if operation == "decode":
        latents = latent_count(frames, vae.num_sample_frames_batch_size, config.temporal_levels)
        sides = (side // config.spatial_compression for side in (height, width))
        shape = (1, latents, *sides, config.latent_channels)
    planned = getattr(vae, "plan", None)
    if planned is None:
        raise ValueError(
            f"the {vae.backend!r} backend compiles nothing, and what it will need is not known before it runs"
        )
    try:
        print(planned(shape, operation, _sharding(chip, devices)))
    except MemoryError as error:
        print(error)
        raise typer.Exit(1) from None


def _clip(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*x[1-9]\d*x[1-9]\d*", text):
        raise ValueError(f"{text}: expected frames x height x width of the video, such as 81x480x720")
    return tuple(map(int, text.split("x")))


def _sharding(chip: str | None, devices: int) -> Any:
    """Where a program is to run; None for this machine's own device."""
    if chip is None:
        return None
    from twinvae.bench.aot.compilers import sharding_on

    try:
        return sharding_on(chip, devices)
    except RuntimeError as error:  # its compiler is missing, or another process holds it
        raise ValueError(str(error)) from None


@app.command(epilog=STATUS)
def report(platform: Platform = None, report_dir: ReportDir = LOCAL_REPORTS, baseline_dir: BaselineDir = None) -> None:
    """Write the pages of the last run of every suite again."""
    worse = False
    for name in _platforms(platform, report_dir):
        summary = write_report(report_dir, baseline_dir or BASELINES, name)
        Console().print(summary.table)
        print(*summary.lines, f"pages: {summary.index}", sep="\n")
        worse = worse or summary.failed
    raise typer.Exit(int(worse))


@app.command(epilog=STATUS)
def baseline(
    suites: Suites = None, platform: Platform = None, yes: Yes = False,
    force: Annotated[bool, typer.Option("--force", help="accept a run that has failures")] = False,
    known: Annotated[str | None, typer.Option(metavar="REASON", help="why what fails is accepted")] = None,
    owner: Annotated[str | None, typer.Option(metavar="WHO", help="who is to mend those")] = None,
    report_dir: ReportDir = LOCAL_REPORTS, baseline_dir: BaselineDir = None,
) -> None:  # fmt: skip
    """Show what the last runs change in the baselines, and accept it: complete runs of committed code alone."""
    if baseline_dir is None and CHECKOUT is None:
        raise ValueError(
            "the baselines that are installed are not changed: give --baseline-dir DIR for your own, which "
            "`twinvae check --baseline-dir DIR` then compares with"
        )
    if bool(known) != bool(owner):
        raise ValueError("--known REASON and --owner WHO go together: who is to mend what fails, and why not now")
    accepted = Known(reason=known, owner=owner) if known and owner else None
    folder = baseline_dir or BASELINES
    runs = _runs(suites, platform, report_dir, folder)
    raise typer.Exit(
        max(accept(judged, folder, yes, force, accepted) for judged_suites in runs.values() for judged in judged_suites)
    )


@app.command(epilog=STATUS)
def publish(
    suites: Suites = None, platform: Platform = None, yes: Yes = False,
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="default: the checkout's reports")] = None,
    report_dir: ReportDir = LOCAL_REPORTS, baseline_dir: BaselineDir = None,
) -> None:  # fmt: skip
    """Write the last runs' pages to reports/PLATFORM/: complete runs alone, all of one commit."""
    to = CHECKOUT / "reports" if to is None and CHECKOUT else to
    if to is None:
        raise ValueError("pages are published in a checkout, and this is none: give --to DIR for a folder of your own")
    runs = _runs(suites, platform, report_dir, baseline_dir or BASELINES)
    raise typer.Exit(publish_pages(runs, to, yes))


@app.command(epilog=STATUS)
def backends() -> None:
    """List the backends that are installed: ours, and ports that register under the group twinvae.backends."""
    table = Table("backend", "module", "installed by")
    for name in twinvae.backends():
        point = installed()[name]
        table.add_row(name, point.value, f"{point.dist.name} {point.dist.version}" if point.dist else "")
    Console().print(table)


def _platforms(given: str | None, report_dir: Path) -> list[str]:
    found = [given] if given else sorted({path.parent.parent.name for path in report_dir.glob("*/records/*.jsonl")})
    if not found:
        raise FileNotFoundError(f"no records in {report_dir}: run a suite first, such as `nox -s parity`")
    return found


def _runs(
    suites: list[str] | None, platform: str | None, report_dir: Path, baseline_dir: Path
) -> dict[str, list[Judged]]:
    """The last runs of these suites, or of all, by platform.

    Raises:
        FileNotFoundError: no suite was run.
        ValueError: a suite was not run, or a file is not valid.
    """
    found = {}
    for name in _platforms(platform, report_dir):
        judged = judge_suites(report_dir, baseline_dir, name)
        if unknown := set(suites or ()) - {one.suite for one in judged}:
            raise ValueError(f"no run of {', '.join(sorted(unknown))} on {name}: run `nox -s {min(unknown)}` first")
        found[name] = [one for one in judged if not suites or one.suite in suites]
    return found
