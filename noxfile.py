"""Everything the project does, as sessions that share one environment, `.venv`, made on first use.

Arguments after `--` go to pytest: `nox -s parity -- --backend flax --dtype float64`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import nox
from packaging.requirements import Requirement

ROOT = Path(__file__).parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
STAMP = VENV / "installed-from"
# For both backends at once; for compilers too; with the machine to itself; of Flax alone.
APART = ("generation", "memory", "scaling", "speed", "training")
SUITES = sorted({test.parent.name for test in ROOT.glob("suites/*/test_*.py")})

# Unit tests that load no model, or next to none.
QUICK_TESTS = (
    "tests/twinvae", "tests/suites/memory", "--ignore=tests/twinvae/jax/test_planner.py",
    *(f"tests/bench/test_{name}.py" for name in ("records", "verdicts", "pages", "baselines", "metrics", "bars_page")),
)  # fmt: skip

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "none"
EXTRAS = "dev,tpu-aot,gpu-aot,cudnn"
nox.options.sessions = ["lint", "tests"]


def python(session: nox.Session, *arguments: str) -> None:
    """Run the shared environment's python, installing what the project pins if that has changed."""
    wanted = hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in ("constraints.txt", "pyproject.toml")))
    if not STAMP.exists() or STAMP.read_text() != wanted.hexdigest():
        session.log("installing the pinned environment into .venv (2.3 GB, a minute or two, once)")
        session.run(sys.executable, "-m", "venv", str(VENV), external=True)
        pip = (str(BIN / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        session.run(*pip, "--constraint", "constraints.txt", "--editable", f".[{EXTRAS}]", external=True)
        STAMP.write_text(wanted.hexdigest())
    session.run(str(BIN / "python"), *arguments, external=True)


def two_at_a_time(session: nox.Session, *runs: tuple[str, ...]) -> None:
    """Run python with each of these, on two cores that each take the next one; what failed is told last."""
    python(session, "--version")  # installs what is missing

    def run(arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        session.log(f"begins: {' '.join(arguments)}")
        done = subprocess.run(
            [BIN / "python", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
        )
        session.log(f"ended with {done.returncode}: {' '.join(arguments)}")
        if not done.returncode:
            print(done.stdout, flush=True)
        return done

    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting = [pool.submit(run, arguments) for arguments in runs]
        try:
            failed = [one for done in as_completed(waiting) if (one := done.result()).returncode]
        except KeyboardInterrupt:  # which the processes have heard as well
            pool.shutdown(cancel_futures=True)
            raise
    for one in failed:
        session.log(f"failed: {' '.join(map(str, one.args))}")
        print(one.stdout, flush=True)
    if failed:
        session.error("failed: " + "; ".join(" ".join(map(str, one.args[1:])) for one in failed))


def _suite_session(suite: str) -> None:
    @nox.session(name=suite)
    def run_suite(session: nox.Session) -> None:
        looking = ["--diagnose"] if suite == "parity" else []
        python(session, "-m", "pytest", f"suites/{suite}", *looking, *session.posargs)

    run_suite.func.__doc__ = f"Run the {suite} suite and write reports/local/<platform>/{suite}.md."


for suite in SUITES:
    if suite != "memory":
        _suite_session(suite)


@nox.session
def memory(session: nox.Session) -> None:
    """Run the memory suite here and for compilers alone; --aot v6e,h100 compiles all, --frontier v6e explores."""
    python(session, "-m", "suites.memory", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """Measure this machine's card in 10 minutes: parity, speed and memory; --list names the steps, --rehearse tries."""
    python(session, "-m", "suites.gpu", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the project's own tests and every suite on the tiny preset; pages go to build/reports, two runs at a time."""
    # One round: of times the gate's alone is held against its baseline, and it has the machine to itself.
    quick, gate = ("--preset", "tiny", "--one-round"), "suites/speed/test_gate.py"
    if session.posargs:
        python(session, *tested("", *quick, "tests", "suites", *session.posargs))
        return
    numbers = [f"suites/{suite}" for suite in SUITES if suite not in APART]
    v6e, h100 = ("--platform", "tpu-v6e-aot"), ("--platform", "gpu-h100-aot")
    two_at_a_time(
        session,  # the longest first
        tested("", *quick, *numbers, "--backend", "flax"),
        tested("torchax", *quick, *numbers, "--backend", "torchax"),
        tested("none", "tests", "--ignore=tests/bench"),
        tested("none", "tests/bench"),
        # Op by op a first and a warm call give times alone, which one round does not judge.
        tested("speed", *quick, "suites/speed", f"--ignore={gate}", "-k", "jit or not (warm_call or first_call)"),
        tested("memory-v6e", "suites/memory", *v6e),
        tested("memory", *quick, "suites/memory"),
        tested("training", *quick, "suites/training"),
        tested("generation", *quick, "suites/generation"),
        # How far a card reaches is left to `nox -s memory`: seeing whether its programs changed takes as long again.
        tested("memory-h100", "suites/memory", *h100, "-k", "not reaches"),
        tested("scaling", "suites/scaling", *h100, "-k", "8-flax"),  # two of the ten programs tell of a change
        tested("generation-v6e", "suites/generation", *v6e),
        tested("generation-h100", "suites/generation", *h100),
    )
    python(session, *tested("gate", *quick, gate))


def tested(folder: str, *arguments: str) -> tuple[str, ...]:
    """A run of tests, whose pages are in a folder of their own: one run's at a time."""
    return ("-m", "pytest", *arguments, "--report-dir", f"build/reports/{folder}")


@nox.session(python=["3.11", "3.12", "3.13"], venv_backend="venv", reuse_venv=True)
@nox.parametrize("versions", ["oldest", "newest"])
def versions(session: nox.Session, versions: str) -> None:
    """Try parity, frames and tiling under other versions: nox -s "versions-3.12(versions='newest')"."""
    session.install("--editable", ".[suites]", *(_oldest() if versions == "oldest" else ()))
    folder = f"build/reports/versions/{session.python}-{versions}"
    suites = [f"suites/{suite}" for suite in ("parity", "frames", "tiling")]
    session.run("python", "-m", "pytest", *suites, "--preset", "tiny", "--report-dir", folder, *session.posargs)


def _oldest() -> list[str]:
    """The oldest versions that pyproject.toml promises of what the numbers come from."""
    wanted = map(Requirement, nox.project.load_toml(ROOT / "pyproject.toml")["project"]["dependencies"])
    return [f"{one.name}=={min(one.specifier, key=str).version}" for one in wanted
            if one.name in ("diffusers", "flax", "jax", "torch")]  # fmt: skip


@nox.session
def quick(session: nox.Session) -> None:
    """What is worth running on every save: the unit tests that take no model, and layers and posteriors in float64."""
    layers = ("suites/parity/test_layers.py", "suites/parity/test_posterior.py", "suites/tiling/test_blend.py")
    few = ("--preset", "tiny", "--mode", "jit", "--dtype", "float64", "--report-dir", "build/reports/quick")
    two_at_a_time(
        session,
        ("-m", "pytest", "-q", *few, *layers, *session.posargs),
        ("-m", "pytest", "-q", *QUICK_TESTS),
    )


@nox.session
def gate(session: nox.Session) -> None:
    """Try the speed suite's gate: planted slowdowns must be found, unchanged code never be called slower."""
    python(session, "-m", "trials.gate", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Try the suites: plant porting faults in copies of the checkout, and see which are caught, and how soon."""
    python(session, "-m", "trials.faults", *session.posargs)


@nox.session
def findings(session: nox.Session) -> None:
    """Try what is said of a port: one with twelve defects, all on, each alone, and mended one after another."""
    python(session, "-m", "trials.findings", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Try the suites on unchanged code, over and over, in random order and under load: false alarms."""
    python(session, "-m", "trials.soak", *session.posargs)


@nox.session
def explore(session: nox.Session) -> None:
    """Try more settings together than the parity suite does, and longer sessions; what goes wrong becomes a case."""
    python(session, "-m", "trials.explore", *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Try the tests: a sample of small changes to the sources, made by a tool, and whether some test fails of each."""
    python(session, "-m", "trials.mutants", *session.posargs)


@nox.session
def report(session: nox.Session) -> None:
    """Write the pages again from the records of the last runs."""
    python(session, "-m", "twinvae", "report", *session.posargs)


@nox.session
def baseline(session: nox.Session) -> None:
    """Accept the last runs as baselines, after showing what would change; of committed code alone."""
    python(session, "-m", "twinvae", "baseline", *session.posargs)


@nox.session
def publish(session: nox.Session) -> None:
    """Write the last runs' pages to reports/<platform>/: complete runs alone, all of one commit."""
    python(session, "-m", "twinvae", "publish", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting, that imports go one way, and types."""
    python(session, "-m", "ruff", "check", ".")
    python(session, "-m", "ruff", "format", "--check", ".")
    session.run(str(BIN / "lint-imports"), external=True)
    python(session, "-m", "pyright", "--pythonpath", str(BIN / "python"))
