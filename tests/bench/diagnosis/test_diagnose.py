"""Diagnoses of ports that are wrong in ways without a signature, or that do not run: nobody innocent is named."""

from __future__ import annotations

import numpy as np
import pytest

import twinvae
from examples.flawed_port import FlawedVAE
from twinvae.bench.diagnosis import search
from twinvae.bench.diagnosis.diagnose import Diagnosis, diagnose, where_apart
from twinvae.bench.diagnosis.experiments import CASES, subject_of
from twinvae.bench.diagnosis.variant import Variant
from twinvae.seeded import seeded_tensors

FEW = ("one latent", "two latents", "four latents, two frame batches", "one frame", "three frames")
CONFIG = twinvae.PRESETS["tiny"]
TENSORS = seeded_tensors(CONFIG, 0)


def diagnosed(port: type[FlawedVAE], whole_alone: bool = False, names=FEW) -> Diagnosis:
    subject = subject_of(port(CONFIG, TENSORS), CONFIG, TENSORS)
    subject = subject._replace(has=frozenset()) if whole_alone else subject
    return diagnose(subject, "port", cases=[case for case in CASES if case.name in names], seconds=6)


class InOneBlock(FlawedVAE):
    def note(self, name, x):
        return super().note(name, x + 0.1 * np.sin(x) if name == "encoder.mid_block.resnets.1" else x)

    def resnet(self, name, x, z, old, new):
        x = super().resnet(name, x, z, old, new)
        return x + 0.1 * np.sin(x) if name == "encoder.mid_block.resnets.1" else x


class BetweenFrameBatches(FlawedVAE):
    def causal_conv(self, name, x, old, new):
        out = super().causal_conv(name, x, old, new)
        new[name] = new[name] / 2
        return out


class InFloat32(FlawedVAE):
    def group_norm(self, name, x, epsilon):
        return super().group_norm(name, x.astype(np.float32), epsilon).astype(np.float64)


class Raising(FlawedVAE):
    def encode(self, video):
        if video.shape[1] == 3:
            raise RuntimeError("odd frame counts are not supported")
        return super().encode(video)


class Scaled(FlawedVAE):
    def decode(self, latents):
        return 1.25 * super().decode(latents)


def test_a_block_is_named_where_it_alone_can_be_to_blame():
    (finding,) = diagnosed(InOneBlock, names=("one frame", "three frames")).findings
    assert (finding.kind, finding.cause) == ("block", "encoder.mid_block.resnets.1")
    assert "Its input agrees to" in finding.evidence[0]


def test_what_is_wrong_between_frame_batches_is_no_blocks_fault():
    (finding,) = diagnosed(BetweenFrameBatches, names=("one latent", FEW[2])).findings
    assert finding.kind == "outside"
    assert finding.evidence[0].startswith("The first frame batch agrees: look at what is handed")
    assert "Of 16 frames, these are off: 8-15; the others agree." in finding.evidence
    assert "Agrees: one latent." in finding.evidence


def test_computing_in_float32_is_told_from_every_other_cause():
    found = diagnosed(InFloat32, whole_alone=True, names=("one latent", "one frame")).findings
    assert [one.cause for one in found] == ["precision: float32"] * 2


def test_what_a_port_raises_is_a_finding_and_says_with_what_it_works():
    (finding,) = diagnosed(Raising, names=("one frame", "three frames")).findings
    assert finding.kind == "raises"
    assert finding.headline == "encode fails: odd frame counts are not supported"
    assert finding.evidence == ("With: three frames. It works with: one frame.",)


def test_an_output_that_is_diffusers_times_a_number_is_said_to_be():
    (finding,) = diagnosed(Scaled, whole_alone=True, names=("one latent",)).findings
    assert finding.kind == "outside"
    assert any(line.startswith("It is diffusers' output times 1.25 plus") for line in finding.evidence)


def test_a_cause_is_said_as_soon_as_it_is_confirmed_and_not_again(monkeypatch):
    tried, reference, known, said = 0, Variant.parts, search.signatures, []

    def counted(*arguments):
        nonlocal tried
        tried += 1
        return reference(*arguments)

    causes = ["single latent: twice", "together: 1"]  # and no others, which would take long to try
    monkeypatch.setattr(Variant, "parts", counted)
    monkeypatch.setattr(search, "signatures", lambda *given: [one for one in known(*given) if one.name in causes])
    monkeypatch.setattr(search, "of_modules", lambda *given: [])
    port = FlawedVAE(CONFIG, TENSORS, ("single-latent-doubled", "one-latent-per-batch"))
    subject = subject_of(port, CONFIG, TENSORS)._replace(has=frozenset())
    cases = [case for case in CASES if case.name in ("one latent", "two latents")]
    diagnose(subject, "port", cases=cases, say=lambda one: said.append((one.cause, tried)))
    assert [cause for cause, _ in said] == causes
    assert said[0][1] < said[1][1]


def test_an_output_that_is_one_number_is_said_to_be():
    case, clip = CASES[0], np.random.default_rng(0).random((1, 4, 8, 8, 3))
    assert "It is 0 throughout." in where_apart(case, clip * 0, clip, 1e-5)
    assert not any("throughout" in line for line in where_apart(case, clip[::, ::-1], clip, 1e-5))


class ToFloat32(FlawedVAE):
    off = 0.0

    def encode(self, video):
        return super().encode(video).astype(np.float32)

    def decode(self, latents):
        out = super().decode(latents)
        return (out + self.off * np.sin(9 * out)).astype(np.float32)


class OffInTheFourthDigit(ToFloat32):
    off = 3e-4


def test_a_float32_output_is_right_to_its_rounding_and_wrong_in_its_fourth_digit():
    assert not diagnosed(ToFloat32, whole_alone=True, names=("one latent",)).findings
    assert diagnosed(OffInTheFourthDigit, whole_alone=True, names=("one latent",)).findings


@pytest.mark.parametrize("call", [0, 16])
def test_a_decode_that_is_costly_to_call_or_to_explain_leaves_encode_its_share_of_the_time(monkeypatch, call):
    """By a clock that goes on by `call` in the port's decode and by a second in the reference's; its share is 20 s."""
    now, reference = 0, Variant.parts

    class Costly(Scaled):
        def decode(self, latents):
            nonlocal now
            now += call
            return super().decode(latents)

    def parts(self, operation, *inputs):
        nonlocal now
        now += operation == "decode"
        return reference(self, operation, *inputs)

    monkeypatch.setattr(Variant, "parts", parts)
    cases = [case for case in CASES if case.name in ("one latent", "two latents", "one frame", "two frames")]
    subject = subject_of(Costly(CONFIG, TENSORS), CONFIG, TENSORS)._replace(has=frozenset())
    found = diagnose(subject, "port", cases=cases, seconds=40, clock=lambda: now)
    assert now >= 20
    assert [line for line in found.left_out if "(encode)" in line] == []


@pytest.mark.parametrize("has", [{"tiling"}, {"batches"}, {"tiling", "batches"}])
def test_what_a_case_sets_of_a_port_is_set_back_whatever_else_it_has_and_whatever_it_raises(has):
    met = []

    class Noting(FlawedVAE):
        def run(self, operation, clip):
            met.append(dict(vars(self)))
            raise OSError("no room")

    vae = Noting(CONFIG, TENSORS)
    subject, before = subject_of(vae, CONFIG, TENSORS)._replace(has=frozenset(has)), dict(vars(vae))
    for case in (case for case in CASES if case.needs in has):
        with pytest.raises(OSError, match="no room"):
            subject.call(case, case.clip(CONFIG, 0))
        assert met[-1] != before
        assert vars(vae) == before
