"""A pytest plugin: tests, all or a share, in random order, file by file, drawn from the seed in `TWINVAE_ORDER`."""

from __future__ import annotations

import os
import random

import pytest

ORDER, SHARE = "TWINVAE_ORDER", "TWINVAE_SHARE"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    rng, share = random.Random(int(os.environ[ORDER])), float(os.environ.get(SHARE, "1"))
    by_file: dict[str, list[pytest.Item]] = {}
    for item in items:
        by_file.setdefault(str(item.path), []).append(item)
    paths = list(by_file)
    rng.shuffle(paths)  # a file's tests stay together: fixtures of the file are made once
    chosen, left_out = [], []
    for path in paths:
        rng.shuffle(by_file[path])
        for item in by_file[path]:
            (chosen if rng.random() < share else left_out).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = chosen
