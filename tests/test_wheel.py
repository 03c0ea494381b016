"""The wheel carries what the command needs in an empty folder: code, suites, baselines, templates; and no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

import pytest

from trials.planting import checkout_copy

ROOT = Path(__file__).parents[1]
PACKAGES = ("baselines", "impl_flax", "impl_torchax", "stages", "suites", "twinvae")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> ZipFile:
    """Built of a copy: what setuptools leaves in a checkout would go into the next wheel."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("wheel")
    copy = checkout_copy(folder / "copy", ROOT)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", folder, copy], check=True)
    return ZipFile(next(folder.glob("twinvae-*.whl")))


def test_the_wheel_holds_every_file_of_what_it_carries_and_nothing_else(wheel):
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    kinds = {".py", ".json", ".jsonl", ".j2", ".ini", ".typed", ".txtpb"}
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.suffix in kinds]
    files += (ROOT / "twinvae/weights").glob("*/*")  # with their cards
    expected = {path.relative_to(ROOT).as_posix() for path in files}
    assert held == expected
    assert {PurePosixPath(name).parts[0] for name in held} == set(PACKAGES)
    assert "baselines/cpu/parity.json" in held


def test_the_wheel_has_the_command_the_backends_and_its_extras(wheel):
    (entry_points,) = (wheel.read(name).decode() for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "twinvae = twinvae.__main__:main" in entry_points
    assert "flax = impl_flax" in entry_points
    assert "decode = stages.commands:decode" in entry_points
    (metadata,) = (wheel.read(name).decode() for name in wheel.namelist() if name.endswith("/METADATA"))
    wanted = [line for line in metadata.splitlines() if line.startswith("Requires-Dist: ")]
    assert any(line.startswith("Requires-Dist: typer") and "stages" in line for line in wanted)
    assert any(line.startswith("Requires-Dist: twinvae[stages]") and "suites" in line for line in wanted)
