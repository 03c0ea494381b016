"""The findings on trial: of a port with twelve defects each must be named, and nothing else (`nox -s findings`)."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import NamedTuple

import twinvae
from examples import flawed_port
from twinvae.bench.diagnosis.diagnose import Diagnosis, diagnose
from twinvae.bench.diagnosis.experiments import CASES, Case, Subject, subject_of
from twinvae.bench.effort import little_effort
from twinvae.bench.environment import prepare_jax
from twinvae.seeded import seeded_tensors

CAUSES = {
    "pool-reshape": "pooled axes: reshaped there and back",
    "one-latent-per-batch": "together: 1",
    "single-latent-doubled": "single latent: twice",
    "unblended-neighbours": "neighbours: raw",
    "clipped": "clip: untiled",
    "cache-of-input": "cache: of the current input",
    "odd-frame-last": "odd frame: last",
    "remainder-last": "remainder: last",
    "same-padding": "downsample padding: SAME",
    "cache-of-first-batch": "handed on: the first batch's",
    "items-share-cache": "items: leaking",
    "act-fn-ignored": "activation: silu",
}


class Told(NamedTuple):
    """What a diagnosis named: defects that are there, and causes that are not."""

    right: tuple[str, ...]
    wrong: tuple[str, ...]


def subject(defects: Collection[str], whole_alone: bool = False) -> Subject:
    """The flawed port on the tiny preset, with all that it has, or with encode and decode alone."""
    config = twinvae.PRESETS["tiny"]
    tensors = seeded_tensors(config, 0)
    port = flawed_port.make(config, tensors, defects)
    whole = subject_of(port, config, tensors, lambda config, tensors: flawed_port.make(config, tensors, defects))
    return whole._replace(has=frozenset(), build=None) if whole_alone else whole


def told(found: Diagnosis, defects: Collection[str]) -> Told:
    names = {cause: defect for defect, cause in CAUSES.items()}
    causes = [finding.cause for finding in found.findings]
    right = tuple(names[cause] for cause in causes if names.get(cause) in defects)
    return Told(right, tuple(cause for cause in causes if names.get(cause) not in defects))


def look(defects: Collection[str], whole_alone: bool = False, cases: Collection[Case] = CASES) -> Diagnosis:
    with little_effort():
        return diagnose(subject(defects, whole_alone), "flawed", cases=tuple(cases), seconds=600)


def main() -> int:
    prepare_jax()
    rows, well = [], True
    for title, defects, whole_alone, least in (
        ("all twelve, encode and decode alone", tuple(CAUSES), True, 9),
        ("all twelve, all capabilities", tuple(CAUSES), False, 9),
        *((f"{defect} alone", (defect,), False, 1) for defect in CAUSES),
        *((f"the last {left} left", tuple(CAUSES)[-left:], False, left) for left in range(11, 1, -1)),
        ("no defect", (), False, 0),
        ("no defect, encode and decode alone", (), True, 0),
    ):
        found = look(defects, whole_alone)
        result = told(found, defects)
        good = len(result.right) >= least and not result.wrong
        well = well and good
        first, whole = found.seconds
        rows.append(
            f"| {title} | {len(result.right)} of {len(defects)} | {len(result.wrong)} | {first:.0f} | {whole:.0f} |"
        )
        print(rows[-1], "" if good else f"MISSED {set(defects) - set(result.right)} {result.wrong}", flush=True)
    print("\n| defects on | named | named wrongly | seconds to the first | in all |\n|---|---|---|---|---|")
    print(*rows, sep="\n")
    return int(not well)


if __name__ == "__main__":
    sys.exit(main())
