"""The port that is wrong on purpose: right with every switch off, and each defect named, alone, by its own cause."""

from __future__ import annotations

import numpy as np
import pytest

import twinvae
from examples import flawed_port
from trials.findings import CAUSES, look, subject, told
from twinvae.bench.diagnosis.experiments import CASES, subject_of
from twinvae.torch.reference import load

# The experiments in which each defect acts alone, beside the simplest of both operations.
SHOWN = {
    "pool-reshape": "two frames", "one-latent-per-batch": "two latents", "single-latent-doubled": "one latent",
    "unblended-neighbours": "one latent in tiles", "clipped": "one latent",
    "cache-of-input": "three latents, a frame batch each", "odd-frame-last": "three frames",
    "remainder-last": "nine frames, one frame batch", "same-padding": "one frame of an odd size",
    "cache-of-first-batch": "24 frames, three frame batches", "items-share-cache": "two items of one frame",
    "act-fn-ignored": "one frame, act_fn mish",
}  # fmt: skip
SIMPLEST = ("one latent", "one frame")
# Without tiles and other configs: where each of ten defects acts without those that are still to be found.
OUTSIDE = ("one latent", "two latents", "three latents", "two items of one latent", "one frame", "two frames",
           "three frames", "one frame of an odd size", "nine frames, one frame batch",
           "24 frames, three frame batches")  # fmt: skip


def cases(*names: str):
    return [case for case in CASES if case.name in names]


def test_every_defect_has_a_cause_and_an_experiment():
    assert set(flawed_port.DEFECTS) == set(CAUSES) == set(SHOWN)


@pytest.mark.parametrize("case", [case for case in CASES if "mish" not in case.name], ids=lambda case: case.name)
def test_without_defects_the_port_is_diffusers(case):
    port = subject(())
    config = port.config.model_copy(update=dict(case.fields))
    if case.fields:
        from twinvae.seeded import seeded_tensors

        tensors = seeded_tensors(config, 0)
    else:
        tensors = port.tensors
    reference = load(config, dict(tensors), dtype="float64", jit=False, checkpoint="")
    clip = case.clip(config, 0)
    expected = subject_of(reference, config, tensors).call(case, clip)["output"]
    found = port.call(case, clip, flawed_port.make(config, tensors, ()))["output"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("defect", flawed_port.DEFECTS)
def test_each_defect_alone_is_named_and_nothing_else(defect):
    found = look((defect,), cases=cases(SHOWN[defect], *SIMPLEST))
    assert told(found, (defect,)) == ((defect,), ())
    assert f"--case '{SHOWN[defect]}'" in found.findings[0].command or not found.findings[0].command
    assert "reference that does so gives the port's output" in found.findings[0].evidence[0]


def test_of_all_twelve_with_encode_and_decode_alone_ten_are_named_and_no_innocent():
    found = look(tuple(CAUSES), whole_alone=True, cases=cases(*OUTSIDE))
    result = told(found, tuple(CAUSES))
    assert set(result.right) == set(CAUSES) - {"unblended-neighbours", "act-fn-ignored"}
    assert result.wrong == ()


def test_of_the_right_port_nothing_is_found():
    found = look((), whole_alone=True, cases=cases(*OUTSIDE))
    assert found.findings == ()
    assert found.tried == len(cases(*OUTSIDE))


def test_a_defect_that_is_unknown_is_refused_by_name():
    with pytest.raises(ValueError, match="no such defects: cliped; choose from pool-reshape"):
        flawed_port.make(twinvae.PRESETS["tiny"], {}, ["cliped"])
