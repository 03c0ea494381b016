"""Pages are published of complete runs of one commit, on purpose."""

from __future__ import annotations

import sys

import pytest

from tests.bench.synthetic import RUN, write_run
from twinvae.bench.cli import main
from twinvae.bench.records import Record


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return ["--baseline-dir", "baselines", "--report-dir", "reports/local", "--to", "reports"]


@pytest.fixture
def run(tmp_path):
    def run(suite: str, **changes):
        record = Record(suite=suite, case="a", metric="x", value=1)
        return write_run(tmp_path / "reports" / "local", [record], RUN.model_copy(update={"suite": suite} | changes))

    return run


def test_pages_of_one_commit_are_published_and_older_ones_are_listed_with_theirs(tmp_path, folders, run, capsys):
    published = tmp_path / "reports" / "cpu"
    published.mkdir(parents=True)
    (published / "tiling.md").write_text("# tiling\n\ncommit 1111111; versions")
    run("parity")
    run("frames")
    assert main(["publish", *folders, "--yes"]) == 0
    assert f"commit {RUN.commit}" in capsys.readouterr().out
    index = (published / "index.md").read_text()
    assert index.count(f"commit {RUN.commit}") == 2
    assert "[tiling](tiling.md): as of another run, commit 1111111." in index
    assert (published / "tiling.md").read_text().startswith("# tiling")
    assert "# parity on cpu: nothing got worse" in (published / "parity.md").read_text()
    assert not (tmp_path / "reports" / "local" / "cpu" / "parity.md").exists()
    assert {path.name for path in published.iterdir()} == {
        "findings.json",
        "frames.md",
        "index.md",
        "parity.md",
        "tiling.md",
    }


def test_pages_of_several_commits_are_not_published_together_on_one_platform_or_several(tmp_path, folders, run, capsys):
    run("parity")
    run("frames", commit="fedcba987654")
    assert main(["publish", *folders, "--yes"]) == 2
    assert "several commits, fedcba987654 (frames), 0123456789ab (parity)" in capsys.readouterr().out
    assert not (tmp_path / "reports" / "cpu").exists()
    assert main(["publish", "parity", *folders, "--yes"]) == 0
    assert not (tmp_path / "reports" / "cpu" / "frames.md").exists()
    run("parity", commit="fedcba987654")  # from here on each platform is of one commit
    run("parity", platform="gpu-h100")
    capsys.readouterr()
    assert main(["publish", *folders, "--yes"]) == 2
    assert "several commits, fedcba987654 (parity), 0123456789ab (parity)" in capsys.readouterr().out
    assert not (tmp_path / "reports" / "gpu-h100").exists()
    assert main(["publish", *folders, "--yes", "--platform", "gpu-h100"]) == 0


def test_nothing_is_published_unasked(tmp_path, folders, run, monkeypatch, capsys):
    run("parity")
    assert main(["publish", *folders]) == 2
    assert "--yes" in capsys.readouterr().out
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda prompt: "n")
    assert main(["publish", *folders]) == 0
    assert not (tmp_path / "reports" / "cpu").exists()


def test_without_a_checkout_there_is_nowhere_to_publish_unless_it_is_named(folders, run, monkeypatch, capsys):
    monkeypatch.setattr("twinvae.bench.cli.CHECKOUT", None)
    run("parity")
    assert main(["publish", *folders[:-2], "--yes"]) == 2
    assert "give --to DIR" in capsys.readouterr().err
    assert main(["publish", *folders, "--yes"]) == 0


def test_a_folder_that_cannot_be_written_is_named(tmp_path, folders, run, capsys):
    run("parity")
    (tmp_path / "reports" / "cpu").write_text("mine")
    assert main(["publish", *folders, "--yes"]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert (tmp_path / "reports" / "cpu").read_text() == "mine"
