"""The one time that is held against its baseline: a jitted decode over PyTorch's, the middle of a few processes.

`trials.gate` puts this very measurement on trial.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor

from suites.speed.cases import PYTORCH, Contender, Group, Size
from suites.speed.contenders import load
from suites.speed.measure import measure, vs_reference
from twinvae import VideoVAE
from twinvae.bench.options import Model
from twinvae.bench.records import Record
from twinvae.config import preset_config

GROUP = Group(Model("tiny", preset_config("tiny"), {"preset": "tiny"}), "decode", Size(8, 32, 48), "float32", 40, 40)
GATED_VALUE = {"case": "decode in a few processes", "operation": "decode"}
PROCESSES = 3


def middle_of_processes(measured_in: Callable[[ProcessPoolExecutor], list[Record]]) -> list[Record]:
    """The middle ones of the records of a few processes: where a process's memory lies makes it slower or faster."""
    records = []
    for _ in range(PROCESSES):
        with own_process() as process:
            records.append(measured_in(process))
    return [sorted(alike, key=lambda record: record.value)[PROCESSES // 2] for alike in zip(*records, strict=True)]


def own_process() -> ProcessPoolExecutor:
    """A process that has run nothing yet, for one measurement after the other."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def gated_records(
    contenders: Sequence[Contender], group: Group = GROUP, vae_of: Callable[[Contender, Group], VideoVAE] = load
) -> list[Record]:
    """A record of each contender, of the process that this is called in."""
    measured = measure(group, [*contenders, PYTORCH], vae_of=vae_of, costs=False)
    for error in measured.failures.values():
        raise error
    return [Record(suite="speed", **(GATED_VALUE | vs_reference(measured, one))) for one in contenders]
