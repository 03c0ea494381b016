"""How much faster many chips decode a clip than one, modelled from their programs and from published rates."""

from __future__ import annotations

import numpy as np
import pytest

from suites.scaling import cases
from suites.scaling.bars import HIDDEN, IN_TIME, MODELLED, SHARE, SPEED_UP
from suites.scaling.model import allowed, known_of, point
from suites.scaling.programs import decoder
from twinvae.jax.chips import CHIPS
from twinvae.jax.splits import Work


@pytest.mark.cases("frames, backend, dtype", cases.modelled)
def test_many_chips_reach_what_the_first_frame_batch_allows(
    frames, backend, dtype, programs, chip, told, record, exhibit
):
    answers = {case: programs.ask(case) for case in cases.CASES[chip]}
    at, size = cases.JUDGED[frames], f"{frames}x768x1360"
    shape = (1, cases.CLIPS[frames], *cases.LATENTS[2:])
    work, spec = Work.of(decoder().config, "decode", shape, decoder().frame_batch_size("decode")), CHIPS[chip]

    def value(metric: str) -> float:
        known = known_of({case: answer.program for case, answer in answers.items()}, cases.ROWS)
        found = point(known, spec, work, at)
        most = allowed(known, spec, work)
        return {SPEED_UP: found.speed_up, HIDDEN: found.hidden, SHARE: found.speed_up / most,
                IN_TIME: found.time / most}[metric]  # fmt: skip

    for metric, bar in MODELLED.items():
        record(case=f"{frames} frames on {at} chips", operation="decode", mode="jit", shape=size, metric=metric,
               **bar.fields, **told(list(answers.values()), lambda metric=metric: value(metric)))  # fmt: skip
    if all(answer.known for answer in answers.values()):
        known = known_of({case: answer.program for case, answer in answers.items()}, cases.ROWS)
        points = [point(known, spec, work, chips) for chips in cases.CHIPS_AT]
        columns = {name: np.array([getattr(one, name) for one in points]) for name in points[0]._fields}
        exhibit(f"speed-up {frames}", columns | {"allowed": np.array(allowed(known, spec, work))}, f"{frames}|{chip}")
