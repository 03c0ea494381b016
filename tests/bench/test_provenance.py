"""What a run says of itself: its code (a commit, a port's own, a given one, or a digest of sources), and its cores."""

from __future__ import annotations

import os
import subprocess
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.bench.synthetic import RUN
from twinvae.bench import provenance
from twinvae.bench.provenance import commit, git_commit, program, source_of


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=x", "-c", "user.email=x@x")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path) -> Path:
    root = tmp_path / "repository"
    (root / "a_port").mkdir(parents=True)
    (root / "a_port" / "__init__.py").write_text("x = 1\n")
    (root / ".gitignore").write_text("ignored/\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "-m", "x")
    return root


@pytest.fixture
def port(monkeypatch):
    def port(folder: Path) -> str:
        monkeypatch.syspath_prepend(folder)
        point = EntryPoint("port", "a_port", "twinvae.backends")
        monkeypatch.setattr(provenance, "installed", lambda: {"port": point})
        return source_of("port", "ours")

    return port


def test_a_module_that_is_run_is_named_and_not_its_file():
    assert program(Path("site-packages/pytest/__main__.py")) == "pytest"
    assert program(Path("bin/twinvae")) == "twinvae"


def test_our_own_backends_are_of_our_commit():
    assert [source_of(name, "0123456") for name in ("flax", "torchax", "torch")] == ["0123456"] * 3


def test_a_port_is_of_its_own_repositorys_commit_and_says_what_is_not_committed(repository, port):
    head = git(repository, "rev-parse", "--short=12", "HEAD")
    assert port(repository) == head
    (repository / "a_port" / "__init__.py").write_text("x = 2\n")
    assert port(repository) == f"{head}+changes"


def test_a_port_that_no_repository_tracks_is_of_a_digest_of_its_sources(repository, port):
    packages = repository / "ignored" / "site-packages"
    (packages / "a_port").mkdir(parents=True)
    (packages / "a_port" / "__init__.py").write_text("x = 1\n")
    first = port(packages)
    assert first.startswith("sha256:")
    assert port(packages) == first
    (packages / "a_port" / "layers.py").write_text("y = 1\n")
    assert port(packages) != first


def test_the_commit_of_a_repository_around_what_is_installed_is_not_ours(repository, monkeypatch):
    monkeypatch.setattr(provenance, "CHECKOUT", repository / "a_port")
    assert git_commit() is None
    monkeypatch.setattr(provenance, "CHECKOUT", repository)
    assert git_commit() == git(repository, "rev-parse", "--short=12", "HEAD")
    monkeypatch.setattr(provenance, "CHECKOUT", None)
    assert git_commit() is None


def test_a_run_that_is_kept_to_some_cores_says_how_many_and_not_what_the_machine_has(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 6}, raising=False)
    assert provenance.collect("parity", "cpu", seed=0, weights="", clip="", selection=RUN.selection).cores == 3


def test_what_is_written_by_a_run_or_accepted_of_it_is_no_change_of_sources(repository, monkeypatch):
    monkeypatch.setattr(provenance, "CHECKOUT", repository)
    for name in ("reports/cpu/parity.md", "baselines/cpu/parity.json"):
        (repository / name).parent.mkdir(parents=True)
        (repository / name).write_text("x")
    assert "+changes" not in git_commit()
    (repository / "new.py").write_text("x")
    assert git_commit().endswith("+changes")


def test_a_commit_is_given_by_option_or_environment_where_git_does_not_know_it(monkeypatch):
    monkeypatch.delenv("TWINVAE_COMMIT", raising=False)
    monkeypatch.setattr(provenance, "git_commit", lambda: None)
    assert commit() == "unknown"
    monkeypatch.setenv("TWINVAE_COMMIT", "fedcba9")
    assert commit() == "fedcba9"
    assert commit("0123456") == "0123456"
    monkeypatch.setattr(provenance, "git_commit", lambda: "aaaaaaa+changes")
    assert commit("0123456") == "aaaaaaa+changes"


def test_an_installed_wheel_is_known_by_its_version_and_what_it_holds_wherever_it_is(monkeypatch):
    files = ["twinvae/a.py,sha256=x,1", "suites/b.py,sha256=y,2"]
    here = ["../../bin/twinvae,sha256=1,9", "twinvae-1.dist-info/RECORD,,", "twinvae/__pycache__/a.pyc,,"]

    def known(*lines: str) -> str | None:
        held = SimpleNamespace(read_text=lambda name: "\n".join(lines) if lines else None)
        monkeypatch.setattr(provenance, "distribution", lambda name: held)
        return provenance.wheel()

    monkeypatch.setattr(provenance, "version", lambda name: "1.2")
    assert known(*files) is None  # in a checkout
    monkeypatch.setattr(provenance, "CHECKOUT", None)
    found = known(*files)
    assert found.startswith("1.2-")
    assert known(*here, *files[::-1]) == found
    assert known(files[0], "suites/b.py,sha256=z,2") != found
    assert known() is None
    monkeypatch.delenv(provenance.COMMIT, raising=False)
    known(*files)
    assert provenance.commit() == found
    assert provenance.commit("abcdef1") == "abcdef1"
