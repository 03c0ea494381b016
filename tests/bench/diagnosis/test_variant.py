"""The reference in pieces: with no change it is diffusers', and every change that has a signature changes something."""

from __future__ import annotations

import numpy as np
import pytest

import twinvae
from twinvae.bench.diagnosis.experiments import CASES, OUTPUT, Case, subject_of
from twinvae.bench.diagnosis.search import acts_in
from twinvae.bench.diagnosis.signatures import of_modules, signatures
from twinvae.bench.diagnosis.variant import RIGHT, Variant, batches
from twinvae.config import VAEConfig
from twinvae.seeded import seeded_tensors
from twinvae.torch.reference import load

OPERATIONS = ("decode", "encode")


def built(case: Case) -> tuple[VAEConfig, dict[str, np.ndarray]]:
    config = VAEConfig(**(twinvae.PRESETS["tiny"].model_dump() | dict(case.fields)))
    return config, seeded_tensors(config, 0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.operation} {case.name}")
def test_with_no_change_it_is_diffusers_block_for_block(case):
    config, tensors = built(case)
    reference = load(config, tensors, dtype="float64", jit=False, checkpoint="")
    clip = case.clip(config, 0)
    expected = subject_of(reference, config, tensors).call(case, clip)
    found = Variant(config, tensors).parts(case.operation, clip, case.settings)
    if not case.settings.tile:
        assert set(found) == set(expected) != {OUTPUT}
    for name, part in expected.items():
        np.testing.assert_allclose(found[name], part, rtol=0, atol=1e-12)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_signature_makes_a_difference_in_some_experiment(operation):
    plain = {}

    def differs(signature, case: Case) -> bool:
        config, tensors = built(case)
        if case.name not in plain:
            variant = Variant(config, tensors)
            plain[case.name] = (
                variant,
                case.clip(config, 0),
                variant.run(operation, case.clip(config, 0), case.settings),
            )
        variant, clip, expected = plain[case.name]
        try:
            found = variant.changed(signature.change).run(operation, clip, case.settings)
        except RuntimeError:  # a frame that gets too small, which is a difference too
            return True
        return found.shape != expected.shape or not np.allclose(found, expected, rtol=0, atol=1e-9)

    cases = [case for case in CASES if case.operation == operation]
    table = signatures(Variant(*built(cases[0])), operation)
    idle = [one.name for one in table if not any(acts_in(one.field, case) and differs(one, case) for case in cases)]
    # What is already so of the tiny preset: its act_fn is SiLU and its norms have 4 groups, which configs change.
    # Latent tiles overlap by a cell there, whose ramp has no second point.
    assert set(idle) <= {"number of groups: 4", "number of groups: 16", "number of groups: 32"} | (
        {"ramp: i / (n - 1)", "ramp: reversed"} if operation == "encode" else {"epsilon: 1e-06"}
    )
    assert {one.field for one in table} <= RIGHT.keys()


def test_of_one_module_only_that_module_and_what_follows_changes():
    case = CASES[0]
    variant = Variant(*built(case))
    block = "decoder.up_blocks.1.resnets.0"
    clip = case.clip(variant.config, 0)
    plain = variant.parts("decode", clip)
    table = of_modules(variant, "decode", block)
    assert {one.where.startswith(block) for one in table} == {True}
    change = next(one for one in table if one.field == "bias" and one.value == "left out").change
    found = variant.changed(change).parts("decode", clip)
    apart = [name for name in plain if not np.allclose(found[name], plain[name])]
    assert apart[0] == block


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("first", [3, 2, 2]), ("last", [2, 2, 2, 1]), ("with the last", [2, 2, 3]), ("left out", [2, 2, 2]),
     ("first, alone", [1, 2, 2, 2]), ("first frame alone", [1, 2, 2, 2])],
)  # fmt: skip
def test_a_remainder_goes_where_it_is_said_to(rule, expected):
    found = batches(7, 2, rule)
    assert [batch.stop - batch.start for batch in found] == expected
    assert [batch.start for batch in found[1:]] == [batch.stop for batch in found[:-1]]
