"""A compiled program's text is read: what it runs, how often, and what that moves and computes."""

from __future__ import annotations

from pathlib import Path

import pytest

from twinvae.bench.aot import hlo
from twinvae.bench.aot.hlo import Compiled

# A loop of 5 convolutions, each of a slice of `frames`; its kernel is transposed beforehand, and the result after.
TEXT = Path(__file__).with_name("program.txt").read_text(encoding="utf-8")
PIXELS = 6 * 6


def program(labels: str = "b01f_o01i->b01f") -> Compiled:
    return Compiled(TEXT.replace("LABELS", labels))


def test_a_loop_runs_as_often_as_it_is_known_to():
    assert program().runs == {"main": 1, "body": 5}
    assert Compiled(TEXT.replace('{"n":"5"}', "{}")).runs == {"main": 1, "body": 1}


def test_flops_are_those_of_every_convolution_each_time_it_runs():
    one_frame = 2 * PIXELS * 2 * 9 * 4
    assert program().flops() == (8 + 5) * one_frame


def test_bytes_are_what_kernels_read_and_write_and_of_slices_and_updates_the_part():
    frame, result, kernel = PIXELS * 4 * 2, PIXELS * 2 * 2, 2 * 9 * 4 * 2
    index = 4
    in_the_loop = (frame + index + frame) + (frame + kernel + result) + (result + index + 2 * result)
    outside = 2 * kernel + (8 * frame + kernel + 8 * result) + (8 * 2 * result + 8 * result)
    assert program().bytes_accessed() == 5 * in_the_loop + outside


def test_what_is_made_of_weights_is_no_activation_and_a_convolution_in_a_loop_is_one():
    assert program().counts() == {
        hlo.CONVOLUTIONS: 2,
        hlo.IN_FLOAT32: 0,
        hlo.CHANNEL_FIRST: 0,
        hlo.TRANSPOSES: 1,
        hlo.COPIES: 0,
        hlo.FLOAT32: 1,
        hlo.FUSIONS: 4,
        hlo.OTHERS: 0,
    }


def test_a_kernel_that_is_laid_out_before_a_loop_is_no_activation():
    lines = [line for line in TEXT.splitlines() if "%first" not in line]
    counts = Compiled("\n".join(lines).replace("LABELS", "b01f_o01i->b01f")).counts()
    assert (counts[hlo.CONVOLUTIONS], counts[hlo.TRANSPOSES]) == (1, 1)


def test_sums_of_a_norms_parts_are_no_activation_however_many():
    text = TEXT.replace("LABELS", "b01f_o01i->b01f").replace("f32[8,6,6,2]{3,2,1,0}", "f32[288,2]{1,0}")
    assert Compiled(text).counts()[hlo.FLOAT32] == 0


def test_a_channel_first_convolution_is_told_by_the_axes_of_its_frames():
    assert program("bf01_oi01->bf01").counts()[hlo.CHANNEL_FIRST] == 1


def test_a_call_of_another_library_is_counted_apart():
    counts = Compiled(
        TEXT.replace("LABELS", "b01f_o01i->b01f").replace("__cudnn$convForward", "__cublas$gemm", 1)
    ).counts()
    assert (counts[hlo.CONVOLUTIONS], counts[hlo.OTHERS]) == (1, 1)


def test_a_matrix_product_counts_whether_it_is_fused_or_not():
    fused = """
%fused_dot (p0: bf16[8,16], p1: bf16[16,4]) -> bf16[8,4] {
  %p0 = bf16[8,16]{1,0} parameter(0)
  %p1 = bf16[16,4]{1,0} parameter(1)
  ROOT %dot.1 = bf16[8,4]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
ENTRY %main (a: bf16[8,16], b: bf16[16,4]) -> bf16[8,4] {
  %a = bf16[8,16]{1,0} parameter(0)
  %b = bf16[16,4]{1,0} parameter(1)
  ROOT %c = bf16[8,4]{1,0} fusion(%a, %b), kind=kCustom, calls=%fused_dot
}
"""
    alone = fused.replace("fusion(%a, %b), kind=kCustom, calls=%fused_dot", "dot(%a, %b), lhs_contracting_dims={1}")
    assert Compiled(fused).flops() == Compiled(alone).flops() == 2 * 8 * 4 * 16


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="begins with ENTRY, found 'nothing'"):
        Compiled("nothing")


# Of a TPU: 3 slabs of one row, each of which a fusion inside of a fusion cuts out of `frames`; what comes of it stays
# in vector memory, and is taken from there in the end.
SLABS = """
HloModule slabs

%cut (p: bf16[4,6,2], at: s32[]) -> bf16[1,6,2] {
  %p = bf16[4,6,2]{2,1,0} parameter(0)
  %at = s32[] parameter(1)
  ROOT %row = bf16[1,6,2]{2,1,0} dynamic-slice(%p, %at), dynamic_slice_sizes={1,6,2}
}

%convolved (q: bf16[4,6,2], k: bf16[3,2,5], to: s32[]) -> bf16[1,6,5] {
  %q = bf16[4,6,2]{2,1,0} parameter(0)
  %k = bf16[3,2,5]{2,1,0} parameter(1)
  %to = s32[] parameter(2)
  %slab = bf16[1,6,2]{2,1,0} fusion(%q, %to), kind=kLoop, calls=%cut
  ROOT %sums = bf16[1,6,5]{2,1,0:T(8,128)(2,1)S(1)} convolution(%slab, %k), window={size=3 pad=1_1}, dim_labels=b0f_0io->b0f
}

%below (c: (s32[], bf16[4,6,2], bf16[3,2,5])) -> pred[] {
  %c = (s32[], bf16[4,6,2]{2,1,0}, bf16[3,2,5]{2,1,0}) parameter(0)
  %counter = s32[] get-tuple-element(%c), index=0
  %bound = s32[] constant(3)
  ROOT %less = pred[] compare(%counter, %bound), direction=LT
}

%slab.body (b: (s32[], bf16[4,6,2], bf16[3,2,5])) -> (s32[], bf16[4,6,2], bf16[3,2,5]) {
  %b = (s32[], bf16[4,6,2]{2,1,0}, bf16[3,2,5]{2,1,0}) parameter(0)
  %index = s32[] get-tuple-element(%b), index=0
  %frames = bf16[4,6,2]{2,1,0} get-tuple-element(%b), index=1
  %kernel = bf16[3,2,5]{2,1,0} get-tuple-element(%b), index=2
  %done = bf16[1,6,5]{2,1,0:T(8,128)(2,1)S(1)} fusion(%frames, %kernel, %index), kind=kOutput, calls=%convolved
  %start = (bf16[1,6,5]{2,1,0}, bf16[1,6,5]{2,1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) copy-start(%done)
  %copied = bf16[1,6,5]{2,1,0} copy-done(%start)
  ROOT %next = (s32[], bf16[4,6,2]{2,1,0}, bf16[3,2,5]{2,1,0}) tuple(%index, %frames, %kernel)
}

ENTRY %main (given: (s32[], bf16[4,6,2], bf16[3,2,5])) -> (s32[], bf16[4,6,2], bf16[3,2,5]) {
  %given = (s32[], bf16[4,6,2]{2,1,0}, bf16[3,2,5]{2,1,0}) parameter(0)
  ROOT %loop = (s32[], bf16[4,6,2]{2,1,0}, bf16[3,2,5]{2,1,0}) while(%given), condition=%below, body=%slab.body
}
"""  # noqa: E501, as XLA writes it


def test_a_tpus_loop_runs_as_often_as_its_counter_is_below_a_number():
    assert Compiled(SLABS).runs == {"main": 1, "slab.body": 3}
    assert Compiled(SLABS.replace("direction=LT", "direction=NE")).runs["slab.body"] == 1


# A loop around that one, which runs it 7 times by way of a call.
AROUND = """
%around (c: (s32[], bf16[4,6,2], bf16[3,2,5])) -> (s32[], bf16[4,6,2], bf16[3,2,5]) {
  %c = (s32[], bf16[4,6,2]{2,1,0}, bf16[3,2,5]{2,1,0}) parameter(0)
  ROOT %called = (s32[], bf16[4,6,2]{2,1,0}, bf16[3,2,5]{2,1,0}) call(%c), to_apply=%inner
}

ENTRY %main (given: (s32[], bf16[4,6,2], bf16[3,2,5])) -> (s32[], bf16[4,6,2], bf16[3,2,5]) {
  %given = (s32[], bf16[4,6,2]{2,1,0}, bf16[3,2,5]{2,1,0}) parameter(0)
  ROOT %outer = (s32[], bf16[4,6,2]{2,1,0}, bf16[3,2,5]{2,1,0}) while(%given), condition=%never, body=%around, backend_config={"known_trip_count":{"n":"7"}}
}
"""  # noqa: E501, as XLA writes it


def test_a_loop_inside_of_a_loop_runs_as_often_as_both_together():
    once, nested = Compiled(SLABS), Compiled(SLABS.replace("ENTRY %main", "%inner") + AROUND)
    assert nested.runs == {"main": 1, "around": 7, "inner": 7, "slab.body": 7 * 3}
    assert (nested.flops(), nested.bytes_accessed()) == (7 * once.flops(), 7 * once.bytes_accessed())


def test_what_is_called_from_two_places_runs_for_both():
    twice = AROUND.replace("call(%c), to_apply=%inner\n", "call(%again), to_apply=%inner\n").replace(
        "  ROOT %called",
        "  %again = (s32[], bf16[4,6,2]{2,1,0}, bf16[3,2,5]{2,1,0}) call(%c), to_apply=%inner\n  ROOT %called",
    )
    once, both = Compiled(SLABS), Compiled(SLABS.replace("ENTRY %main", "%inner") + twice)
    assert both.runs == {"main": 1, "around": 7, "inner": 2 * 7, "slab.body": 2 * 7 * 3}
    assert (both.flops(), both.bytes_accessed()) == (14 * once.flops(), 14 * once.bytes_accessed())


def test_what_is_fused_twice_counts_and_what_stays_in_vector_memory_is_not_moved():
    assert Compiled(SLABS).flops() == 3 * 2 * 6 * 5 * 3 * 2
    row, kernel, index, result = 6 * 2 * 2, 3 * 2 * 5 * 2, 4, 6 * 5 * 2
    assert Compiled(SLABS).bytes_accessed() == 3 * (row + kernel + index + result)
