"""Sessions that run several processes: what one of them came to is what the session comes to."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


class SessionFailedError(Exception):
    pass


class Session:
    """As much of nox's as the noxfile takes there."""

    def log(self, text: str) -> None:
        print(text)

    def run(self, *command: str, **how: object) -> None:
        pass  # what would install

    def error(self, text: str) -> None:
        raise SessionFailedError(text)


@pytest.fixture(scope="module")
def noxfile():
    spec = importlib.util.spec_from_file_location("of_the_house", ROOT / "noxfile.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("bad", ["raise SystemExit(1)", "raise SystemExit(2)", KILLED])
@pytest.mark.parametrize("place", [0, 2])
def test_one_of_several_runs_that_fails_or_is_killed_fails_all_and_the_others_are_run(
    bad, place, noxfile, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(noxfile, "BIN", Path(sys.executable).parent)
    monkeypatch.setattr(noxfile, "STAMP", tmp_path / "installed")
    codes = [f"open({str(tmp_path / str(number))!r}, 'w').close(); print('well {number}')" for number in range(3)]
    codes[place] += "\n" + bad
    with pytest.raises(SessionFailedError, match=r"^failed: -c"):
        noxfile.two_at_a_time(Session(), *(("-c", code) for code in codes))
    assert all((tmp_path / str(number)).exists() for number in range(3))
    told = capsys.readouterr().out
    assert told.count("well ") >= 3  # what each printed is printed, of those that failed as well
    noxfile.two_at_a_time(Session(), ("-c", "pass"), ("-c", "pass"))
