"""Run files made up for the tests of records, verdicts and reports; what they hold looks like what parity measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from twinvae.bench.records import Record, Run, RunData, RunFile, Selection, read_run

BACKENDS = ("flax", "torchax")
MODES = ("eager", "jit")
ROUNDING = {"float64": 3e-15, "float32": 4e-7, "bfloat16": 3e-3}
LIMITS = {"float64": 1e-10, "float32": 1e-4, "bfloat16": None}
LAYERS = tuple(
    f"{name}, {variant}"
    for name in ("causal conv", "norm", "resnet", "down block", "up block", "downsample", "upsample", "encoder")
    for variant in ("first batch", "later batch", "short batch")
)
BLOCKS = {
    "encode": ("conv_in", "down_blocks.0.resnets.0", "down_blocks.0.downsamplers.0", "down_blocks.1.resnets.0",
               "down_blocks.1.downsamplers.0", "down_blocks.2.resnets.0", "mid_block.resnets.0", "mid_block.resnets.1",
               "norm_out", "conv_out"),
    "decode": ("conv_in", "mid_block.resnets.0", "mid_block.resnets.1", "up_blocks.0.resnets.0",
               "up_blocks.0.resnets.1", "up_blocks.0.upsamplers.0", "up_blocks.1.resnets.0", "up_blocks.1.resnets.1",
               "up_blocks.1.upsamplers.0", "up_blocks.2.resnets.0", "norm_out", "conv_out"),
}  # fmt: skip

RUN = Run(
    suite="parity",
    platform="cpu",
    date="2026-03-04T05:06:07+00:00",
    commit="0123456789ab",
    versions={"python": "3.11.9", "jax": "0.10.2", "torch": "2.13.0"},
    device="A processor",
    cores=2,
    machine="f00dfeed0000",
    seed=0,
    weights="seeded",
    clip="synthetic",
    command=("pytest", "suites/parity"),
    selection=Selection(backends=BACKENDS, modes=MODES, dtypes=tuple(ROUNDING), presets=("tiny",)),
)


def parity_records(seed: int = 0, backends: Sequence[str] = BACKENDS) -> list[Record]:
    """Layers alone, then the error block after block: every backend, mode and dtype."""
    rng = np.random.default_rng(seed)
    records = []
    for backend in backends:
        for mode in MODES:
            for dtype, rounding in ROUNDING.items():
                common = {"suite": "parity", "backend": backend, "mode": mode, "dtype": dtype, "tolerance": 4,
                          "floor": rounding}  # fmt: skip
                for layer in LAYERS:
                    error = rounding * float(rng.uniform(0.7, 3))
                    test = (
                        f"suites/parity/test_layers.py::test_layer_matches_reference[{layer}-{backend}-{mode}-{dtype}]"
                    )
                    shared = common | {"case": layer, "test": test}
                    records.append(Record(metric="max_abs", value=error, limit=LIMITS[dtype], **shared))
                    records.append(Record(metric="mae", value=error / 6, **shared))
                for operation, blocks in BLOCKS.items():
                    test = f"suites/parity/test_model.py::test_{operation}_matches_reference[{backend}-{mode}-{dtype}]"
                    shared = common | {"case": "whole VAE", "operation": operation, "preset": "tiny",
                                       "shape": "1x9x96x160x3", "test": test}  # fmt: skip
                    error = rounding
                    for order, block in enumerate(blocks):
                        error *= float(rng.uniform(1, 1.6))
                        layer = f"{operation}r.{block}"
                        records.append(Record(metric="max_abs", value=error, limit=LIMITS[dtype], layer=layer,
                                              order=order, **shared))  # fmt: skip
                    records.append(Record(metric="max_abs", value=error, limit=LIMITS[dtype], **shared))
                    records.append(Record(metric="mae", value=error / 6, **shared))
    return records


def broken(records: Sequence[Record], layer: str, backend: str = "flax") -> list[Record]:
    """The records of a backend in which the error of everything from one block on is large."""
    operation = {"encoder": "encode", "decoder": "decode"}[layer.partition(".")[0]]
    start = next(record.order for record in records if record.layer == layer)

    def off(record: Record) -> bool:
        inside = record.order is None or record.order >= start
        return record.backend == backend and record.operation == operation and inside

    return [record.model_copy(update={"value": 0.75 + record.value}) if off(record) else record for record in records]


def write_run(
    report_dir: Path,
    records: Sequence[Record],
    run: Run = RUN,
    *,
    complete: bool | None = True,
    exit_status: int = 0,
    extra: Callable[[RunFile], None] = lambda file: None,
) -> RunData:
    """Write a run file where `write_report` looks for it; `complete=None` leaves its end out."""
    path = Path(report_dir) / run.platform / "records" / f"{run.suite}.jsonl"
    file = RunFile(path, clock=lambda: 0.0)
    file.start(run)
    for record in records:
        file.record(record)
    extra(file)
    if complete is not None:
        file.end(complete, exit_status)
    return read_run(path)


def frame_exhibits(file: RunFile) -> None:
    """A frame of a made-up clip, for both backends."""
    y, x = np.mgrid[0:48, 0:80] / 48
    original = np.stack([np.sin(9 * x), np.cos(7 * y), np.sin(5 * (x + y))], axis=-1)
    reference = 0.9 * original
    for index, backend in enumerate(BACKENDS):
        output = reference + 3e-6 * np.sin(40 * x * (index + 1))[..., None]
        file.exhibit("frame", {"original": original, "reference": reference, "output": output}, backend=backend,
                     mode="jit", dtype="float32")  # fmt: skip
