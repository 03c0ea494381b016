"""A pytest plugin: a share of the tests, drawn with the seed of pytest-randomly, which puts them in random order."""

from __future__ import annotations

import random

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--share", type=float, default=1.0, help="of the tests, above 0 and up to 1")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    rng = random.Random(config.option.randomly_seed)
    drawn = [(item, rng.random() < config.option.share) for item in items]
    config.hook.pytest_deselected(items=[item for item, chosen in drawn if not chosen])
    items[:] = [item for item, chosen in drawn if chosen]
