"""Programs that are kept: by whom they can be used, where they are not wanted, and a folder that cannot be written."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from twinvae.bench import compile_cache
from twinvae.bench.compile_cache import FOLDER
from twinvae.jax import kept as kept_programs
from twinvae.jax.kept import keeping, machine


def compiled_anew(factor: float) -> None:
    jax.jit(lambda x: jnp.sin(x) * factor)(jnp.ones(7)).block_until_ready()


def kept(folder: Path) -> int:
    return sum(1 for file in folder.rglob("*") if file.is_file())


def test_a_program_is_kept_and_what_was_set_before_is_set_again(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_programs, "SECONDS", 0)
    before = jax.config.jax_compilation_cache_dir, jax.config.jax_enable_compilation_cache
    with keeping(tmp_path):
        compiled_anew(2.5)
    assert kept(tmp_path) > 0
    assert (jax.config.jax_compilation_cache_dir, jax.config.jax_enable_compilation_cache) == before


def test_nothing_is_kept_where_compiling_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(kept_programs, "SECONDS", 0)
    with keeping(tmp_path), keeping(None):
        compiled_anew(3.5)
    assert kept(tmp_path) == 0


@pytest.mark.parametrize("other", ["version", "processor"])
def test_programs_of_another_version_or_processor_are_in_another_folder(other, monkeypatch):
    mine = machine()
    if other == "version":
        monkeypatch.setattr(kept_programs, "version", lambda package: "0.0")
    else:
        monkeypatch.setattr(Path, "read_text", lambda *_, **__: "model name : another\nflags : none\n")
    assert machine() != mine
    monkeypatch.undo()
    assert machine() == mine


def configured(**option: object) -> pytest.Config:
    given = {"no_compile_cache": False, "compile_cache": None, "help": False, "collectonly": False} | option
    return SimpleNamespace(option=SimpleNamespace(**given), stash={}, addinivalue_line=lambda *_: None)


def test_a_folder_that_cannot_be_written_is_said_once_and_gone_without(tmp_path):
    (tmp_path / "file").write_text("")
    config = configured(compile_cache=str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="compiled programs are not kept: .*--compile-cache names another folder"):
        compile_cache.pytest_configure(config)
    assert config.stash[FOLDER] is None


def test_the_folder_is_the_user_s_and_the_option_s_goes_before_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    given, own = tmp_path / "given", tmp_path / "own" / "twinvae" / "programs"
    for option, place in (({}, own), ({"compile_cache": given}, given)):
        config = configured(**option)
        compile_cache.pytest_configure(config)
        assert config.stash[FOLDER] == place / machine()
    off = configured(no_compile_cache=True)
    compile_cache.pytest_configure(off)
    assert off.stash[FOLDER] is None


@pytest.mark.compiles
def test_a_test_that_measures_compiling_takes_nothing_from_the_folder(pytestconfig):
    assert FOLDER in pytestconfig.stash
    assert not jax.config.jax_enable_compilation_cache


def test_any_other_test_takes_what_it_can_from_the_folder_of_the_run(pytestconfig):
    folder = pytestconfig.stash[FOLDER]
    assert jax.config.jax_enable_compilation_cache is (folder is not None)
    assert folder is None or jax.config.jax_compilation_cache_dir == str(folder)
