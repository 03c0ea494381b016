"""Every line of a run's pages, of what the terminal says and of what machines read, held against stored ones.

`python -m tests.bench.test_golden` writes them anew, for a change that is meant: read what git shows then.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from unittest import mock

import pytest
from rich.console import Console

from tests.bench.synthetic import RUN, write_run
from twinvae.bench.baselines import Known, baseline_path, read_baseline, updated, write_baseline
from twinvae.bench.records import Record
from twinvae.bench.report import write_report

GOLDEN = Path(__file__).with_name("golden")
PORT = "mine.py"
WHOLE = {"suite": "parity", "case": "whole VAE", "preset": "tiny", "shape": "1x9x16x24x3", "mode": "jit"}
LAYER = {"suite": "parity", "case": "causal conv, wide", "mode": "eager"}


def record(metric: str, value: float | None, test: str = "test_vae.py::test_x", **fields: object) -> Record:
    where = {"test": f"suites/parity/{test}[{fields.get('backend', '')}]"}
    return Record(**({"metric": metric, "value": value} | where | fields))  # type: ignore[arg-type]


def blocks(backend: str, *errors: float) -> list[Record]:
    names = ("conv_in", "mid_block.resnets.0", "conv_out")
    return [
        record("max_abs", error, **WHOLE, backend=backend, dtype="float32", operation="decode", limit=1e-4,
               layer=f"decoder.{name}", order=order)
        for order, (name, error) in enumerate(zip(names, errors, strict=True))
    ]  # fmt: skip


# What was accepted, in two runs, and what a later run found: each kind of verdict at least once.
def accepted() -> list[Record]:
    whole, layer = WHOLE | {"dtype": "float32", "limit": 1e-4}, LAYER | {"dtype": "bfloat16"}
    return [
        *blocks("flax", 1e-6, 2e-6, 4e-6), *blocks("torchax", 1e-6, 2e-6, 3e-6),
        record("mae", 3e-7, **whole, backend="flax", operation="decode"),
        record("mae", 2e-7, **whole, backend="torchax", operation="decode"),
        record("mae", 4e-7, **whole, backend="flax", operation="encode", tolerance=1.5),
        record("mae", 8e-4, "test_layers.py::test_y", **layer, backend="flax", tolerance=1.2),
        record("mae", 9e-4, "test_layers.py::test_y", **layer, backend="torchax", tolerance=1.2),
        record("ssim", 0.999, **whole | {"limit": None}, backend="flax", operation="encode", better="higher"),
        record("transposes", 12, **LAYER, backend="torchax", dtype="float32", kind="exact", better="lower"),
        record("time over PyTorch", 0.5, **whole | {"limit": 0.7}, backend="flax", operation="encode", unit="x",
               kind="ratio", interval=(0.48, 0.52), runs=7, tolerance=1.1),
        record("seams", 0.2, **whole | {"limit": 0.1}, backend="torchax", operation="encode"),
        record("gone", 1.0, **whole | {"limit": None}, backend="flax", operation="encode"),
    ]  # fmt: skip


def found_later() -> list[Record]:
    whole, layer = WHOLE | {"dtype": "float32", "limit": 1e-4}, LAYER | {"dtype": "bfloat16"}
    return [
        *blocks("flax", 1e-6, 0.2, 0.3), *blocks("torchax", 1e-6, 2e-6, 3e-6),
        record("mae", 0.05, **whole, backend="flax", operation="decode"),
        record("mae", 2e-7, **whole, backend="torchax", operation="decode"),
        record("mae", 9e-7, **whole, backend="flax", operation="encode", tolerance=1.5),
        record("mae", math.nan, "test_layers.py::test_y", **layer, backend="flax", tolerance=1.2),
        record("mae", 2e-4, "test_layers.py::test_y", **layer, backend="torchax", tolerance=1.2),
        record("ssim", 0.9991, **whole | {"limit": None}, backend="flax", operation="encode", better="higher"),
        record("transposes", 15, **LAYER, backend="torchax", dtype="float32", kind="exact", better="lower"),
        record("time over PyTorch", 0.56, **whole | {"limit": 0.7}, backend="flax", operation="encode", unit="x",
               kind="ratio", interval=(0.4, 0.8), runs=5, tolerance=1.1),
        record("seams", 0.2, **whole | {"limit": 0.1}, backend="torchax", operation="encode"),
        record("flops", 3.5e12, **whole | {"limit": 1e12}, backend="flax", operation="encode", kind="exact"),
        record("peak", None, **whole | {"limit": None}, backend="flax", operation="encode", unit="GiB",
               pending="nox -s memory -- --aot v6e", note="12 min"),
        record("psnr", 41.5, **whole | {"limit": None}, backend="torchax", operation="encode", unit="dB",
               better="higher", note="first seen"),
        record("mae", 2e-6, **whole, backend=PORT, operation="decode"),
    ]  # fmt: skip


def failures(file) -> None:
    shared = {"backend": PORT, "mode": "jit", "dtype": "float32"}
    for test in ("test_vae.py::test_x", "test_growth.py::test_z"):
        file.failure(f"suites/parity/{test}[{PORT}]", "PortRaised: encode raised KeyError: 'conv'",
                     f"pytest suites/parity/{test}", case=test.rpartition(":")[2], **shared)  # fmt: skip
    file.failure("suites/parity/test_checkpoint.py::test_w", "boom | bang", "pytest suites/parity/test_checkpoint.py")


def written(folder: Path) -> dict[str, str]:
    """The texts of a good run and of a bad one, by the names of their files."""
    texts, path = {}, baseline_path(folder / "baselines", "cpu", "parity")
    older, last = accepted()[:6], accepted()
    write_baseline(path, updated(None, write_run(folder, older, RUN.model_copy(update={"commit": "aaaaaaaaaaaa"}))))
    known, over = (
        Known(reason="seams are blended twice", owner="kim"),
        {one.key for one in last if one.metric == "seams"},
    )
    write_baseline(path, updated(read_baseline(path), write_run(folder, last), over, known))
    selection = RUN.selection.model_copy(update={"backends": (*RUN.selection.backends, PORT)})
    later = RUN.model_copy(update={
        "date": "2026-03-05T05:06:07+00:00", "commit": "bbbbbbbbbbbb", "machine": "beefbeefbeef",
        "selection": selection, "unjudged": (f"{PORT}: layers, stream (3 tests)",), "sources": {PORT: "sha256:0123"},
        "ports": (f"{PORT}: takes (1, 9) frames",), "versions": RUN.versions | {"jax": "0.12.0"},
    })  # fmt: skip
    runs = {"good": (last, RUN, {}), "bad": (found_later(), later, {"exit_status": 1, "extra": failures})}
    with mock.patch("twinvae.bench.report.draw", return_value=[]):
        for name, (records, run, options) in runs.items():
            write_run(folder, records, run, **options)
            summary = write_report(folder, folder / "baselines", "cpu")
            console = Console(width=140, record=True, file=(folder / "console").open("w"))
            console.print(summary.table)
            texts[f"{name}-terminal.txt"] = "\n".join([console.export_text(), *summary.lines]) + "\n"
            for file in sorted(summary.index.parent.glob("*.*")):
                if file.is_file():
                    texts[f"{name}-{file.name}"] = file.read_text().replace(str(folder), "FOLDER")
    return texts


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return written(tmp_path_factory.mktemp("golden"))


def test_nothing_more_is_written_and_nothing_less(texts):
    assert sorted(texts) == sorted(file.name for file in GOLDEN.iterdir())


@pytest.mark.parametrize("name", sorted(file.name for file in GOLDEN.iterdir()))
def test_every_line_is_as_it_was(name, texts):
    assert texts[name].splitlines() == (GOLDEN / name).read_text().splitlines()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        for name, text in written(Path(place)).items():
            (GOLDEN / name).write_text(text)
            print(f"wrote {GOLDEN / name}")
