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
