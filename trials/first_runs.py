"""A pytest plugin: which test was the first to run each line of the project, for `reach`.

Loaded with `-p`, before anything of the project: what importing runs counts as run before the first test.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from pathlib import Path

import coverage
import pytest

PLACE = "TWINVAE_REACH"  # the file to write to
FILES = ("impl_flax/*", "impl_torchax/*", "twinvae/*")

_measured = coverage.Coverage(data_file=None, include=FILES, config_file=False)
_began: dict[str, float] = {}
if PLACE in os.environ:
    _measured.start()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    _began[item.nodeid] = time.monotonic()
    _measured.switch_context(item.nodeid)
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    ended = time.monotonic()
    _measured.stop()
    zero = min(_began.values(), default=ended)
    order = {test: place for place, test in enumerate(["", *_began])}
    data, first = _measured.get_data(), {}
    for file in data.measured_files():
        contexts = data.contexts_by_lineno(file).items()
        name = Path(file).relative_to(Path.cwd()).as_posix()
        first[name] = {line: min(tests, key=order.__getitem__) for line, tests in contexts if tests}
    began = {test: at - zero for test, at in _began.items()}
    left = next((item.nodeid for item in session.items if item.nodeid not in began), "")
    Path(os.environ[PLACE]).write_text(
        json.dumps({"began": began, "ended": ended - zero, "left": left, "first": first})
    )
