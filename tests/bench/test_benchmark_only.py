"""--benchmark-only runs the speed suite and leaves the records and pages of the others as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OTHER = ROOT / "suites" / "parity" / "test_posterior.py"


def test_a_suite_that_is_skipped_leaves_what_it_had_measured(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    kept = tmp_path / "cpu" / "records" / "parity.jsonl"
    kept.parent.mkdir(parents=True)
    kept.write_text("as it was")
    options = ["--benchmark-only", "--dtype", "float32", "--platform", "cpu", "--report-dir", str(tmp_path)]
    assert pytest.main([str(OTHER), *options, "-p", "no:cacheprovider", "-q"]) == 0
    assert kept.read_text() == "as it was"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [kept]


def test_every_test_of_the_speed_suite_is_a_benchmark(monkeypatch):
    monkeypatch.chdir(ROOT)
    collected = []

    class Collect:
        def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
            collected.extend(items)

    assert pytest.main(["suites/speed", "--collect-only", "-q", "-p", "no:cacheprovider"], plugins=[Collect()]) == 0
    assert collected
    assert all("benchmark" in item.fixturenames for item in collected)
