"""The least time of a program on a card is the longer of its flops' and its bytes'; measured calls are the guide's."""

from __future__ import annotations

import pytest

from suites.memory.roofline import MEASURED_CALLS, roofline
from twinvae.bench.aot.programs import Program
from twinvae.bench.places import ROOT
from twinvae.jax.chips import CHIPS, GPUS


def program(flops: float, moved: float) -> Program:
    return Program(name="x", fingerprint="x", topology="t", compiler="v", fits=True, seconds=1, date="", flops=flops,
                   bytes_accessed=moved)  # fmt: skip


def test_a_program_takes_as_long_as_the_longer_of_its_flops_and_its_bytes():
    found = roofline(program(989.4e12, 3.352e12 / 2), "h100", "bfloat16")
    assert found == pytest.approx((1.0, 0.5))
    assert found.seconds == found.arithmetic
    on_a_small_card = roofline(program(121e12, 0.6e12), "l4", "bfloat16")
    assert on_a_small_card == pytest.approx((1.0, 2.0))
    assert on_a_small_card.seconds == on_a_small_card.traffic


def test_float32_is_as_slow_as_the_vendor_says_without_tf32():
    assert roofline(program(19.5e12, 0), "a100", "float32").seconds == pytest.approx(1.0)


def test_every_card_has_rates_and_a_bandwidth():
    assert all(chip.bandwidth and chip.rates.keys() == {"bfloat16", "float32"} for chip in GPUS.values())


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the guide is in the checkout alone")
def test_measured_calls_are_those_of_the_guide():
    text = (ROOT / "docs" / "gpu.md").read_text(encoding="utf-8")
    for (chip, backend, operation, clip), found in MEASURED_CALLS.items():
        assert CHIPS[chip].device_kind in text
        assert clip == "9x480x720"
        row = next(line for line in text.splitlines() if line.lower().startswith(f"| {backend} | "))
        assert row.split("|")[2 + (operation == "encode")].strip() == f"{found.seconds} s, {found.memory:.1f} GB"
