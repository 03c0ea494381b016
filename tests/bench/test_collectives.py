"""Collectives in a program's text."""

from __future__ import annotations

from twinvae.bench.collectives import Sent, collectives

TEXT = """
ENTRY %main (x: f64[1,2,3], y: bf16[2,4]) -> (f32[8], f32[2]) {
  %a = f64[1,2,3]{2,1,0} collective-permute(%x), channel_id=1
  %b = (bf16[2,4]{1,0}, bf16[2,4]{1,0}, u32[], u32[]) collective-permute-start(%y), channel_id=2
  %c = bf16[2,4]{1,0} collective-permute-done(%b)
  ROOT %d = (f32[8]{0}, f32[2]{0}) all-reduce(%u, %v), to_apply=%sum
  %e = (f32[2]{0}, f32[8]{0}) all-gather-start(%w), dimensions={0}
  %f = f32[8]{0} fusion(%e), metadata={op_name="all-gather(x)"}
}
"""


def test_collectives_are_counted_by_kind_with_the_bytes_that_they_give():
    assert collectives(TEXT) == {
        "collective-permute": Sent(2, 48 + 16),
        "all-reduce": Sent(1, 40),
        "all-gather": Sent(1, 32),
    }
