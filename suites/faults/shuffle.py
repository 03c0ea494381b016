"""A pytest plugin: tests in random order, file by file, drawn from the seed in `TWINVAE_ORDER`."""

from __future__ import annotations

import os
import random

import pytest

ORDER = "TWINVAE_ORDER"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rng = random.Random(int(os.environ[ORDER]))
    by_file: dict[str, list[pytest.Item]] = {}
    for item in items:
        by_file.setdefault(str(item.path), []).append(item)
    paths = list(by_file)
    rng.shuffle(paths)  # a file's tests stay together: fixtures of the file are made once
    for path in paths:
        rng.shuffle(by_file[path])
    items[:] = [item for path in paths for item in by_file[path]]
