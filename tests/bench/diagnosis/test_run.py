"""A diagnosis by the command: a port's pipeline wrapper and saver, where it has them, alone if that is asked."""

from __future__ import annotations

from tests.twinvae.port.made_up import CLASS, written
from twinvae.bench.cli import main

ALONE = ("--case", "pipeline wrapper", "--case", "saved folder")
BOTH = """
    def as_diffusers(self): raise TypeError("no torch")
    def save_pretrained(self, folder): raise OSError("no room")
def make(config, tensors): return Mine(1)
"""
NEITHER = "def make(config, tensors): return Mine(1)"


def test_a_wrapper_and_a_saver_are_looked_at_where_a_port_has_them(tmp_path, capsys):
    name = written(tmp_path, CLASS + BOTH)
    assert main(["diagnose", name, *ALONE]) == 1
    told = capsys.readouterr().out
    assert "1. as_diffusers raised TypeError: no torch (mine.py, line " in told
    assert "2. save_pretrained raised OSError: no room (mine.py, line " in told
    assert f"twinvae diagnose {name} --case 'saved folder'" in told
    assert "2 findings from 2 experiments" in told
    assert main(["diagnose", written(tmp_path, CLASS + NEITHER, "other.py"), *ALONE]) == 0
    assert "0 findings from 0 experiments" in capsys.readouterr().out
