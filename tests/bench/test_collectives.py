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


LOOPS = """
%inner (p: f32[2]) -> f32[2] {
  ROOT %a = f32[2]{0} all-gather(%p), dimensions={0}
}

%called (p: f32[4]) -> f32[4] {
  ROOT %b = f32[4]{0} all-to-all(%p), dimensions={0}
}

%outer (p: f32[2]) -> f32[2] {
  %c = f32[3]{0} all-reduce(%p), to_apply=%sum
  %f = f32[4]{0} call(%p), to_apply=%called
  ROOT %w = f32[2]{0} while(%p), condition=%cond, body=%inner
}

ENTRY %main (p: f32[2]) -> f32[2] {
  %d = f32[5]{0} all-reduce(%p), to_apply=%sum
  ROOT %v = f32[2]{0} while(%p), condition=%cond, body=%outer
}
"""


def test_what_is_inside_of_loops_is_counted_alone():
    assert collectives(LOOPS) == {
        "all-gather": Sent(1, 8), "all-to-all": Sent(1, 16), "all-reduce": Sent(2, 12 + 20)
    }  # fmt: skip
    assert collectives(LOOPS, inside=1) == {
        "all-gather": Sent(1, 8), "all-to-all": Sent(1, 16), "all-reduce": Sent(1, 12)
    }  # fmt: skip
    assert collectives(LOOPS, inside=2) == {"all-gather": Sent(1, 8)}
