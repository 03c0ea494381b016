"""Where the suites and their baselines are, and where a run writes, in a checkout and in an installed wheel."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

INSTALL = "the suites are not installed: pip install 'twinvae[suites]'"


def _suites() -> Path:
    spec = find_spec("suites")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(INSTALL)
    return Path(next(iter(spec.submodule_search_locations))).resolve()


SUITES = _suites()
ROOT = SUITES.parent  # of the checkout, or of what is installed
CHECKOUT = ROOT if (ROOT / "pyproject.toml").is_file() else None
BASELINES = ROOT / "baselines"
LOCAL_REPORTS = Path("reports") / "local"  # below where a run is started; git ignores it


def suite_names() -> list[str]:
    """Every suite: a folder of `suites` that holds tests."""
    return sorted({test.parent.name for test in SUITES.glob("*/test_*.py")})


def files_of(suite: str) -> set[Path]:
    """The files with a suite's tests."""
    return set((SUITES / suite).glob("test_*.py"))


def alone(test: str, options: Sequence[str]) -> str:
    """The command that runs one test of a suite, in a checkout or with what is installed."""
    if CHECKOUT:
        return shlex.join(["pytest", test, *options])
    backend = next((option.partition("=")[2] for option in options if option.startswith("--backend=")), "BACKEND")
    others = [option for option in options if not option.startswith("--backend=")]
    named = [] if any(option.startswith("--outputs=") for option in options) else [backend]
    return shlex.join(["twinvae", "check", *named, *others, "--", test])


def suite_of(path: Path) -> str | None:
    """The suite that a file belongs to: "parity" for anything under `suites/parity`, None for unit tests."""
    inside = path.is_relative_to(SUITES) and path.relative_to(SUITES).parts
    return inside[0] if inside and len(inside) > 1 else None
