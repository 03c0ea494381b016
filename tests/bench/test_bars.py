"""How arrays are held to bars: the worst of their parts, errors over PyTorch's own, and the clips that bars are for."""

from __future__ import annotations

import numpy as np
import pytest

from twinvae.bench.bars import Bar, check_dtypes, check_shapes, drawn, measured, ratio
from twinvae.bench.clips import synthetic_clip


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_precise_errors_are_measured_on_the_clip_alone(dtype):
    clip = synthetic_clip(2, 17, 26)
    np.testing.assert_array_equal(drawn(clip, dtype), clip)


def test_bfloat16_errors_are_measured_on_sixteen_different_clips_of_the_same_pixels():
    clip = synthetic_clip(2, 17, 26)
    clips = drawn(clip, "bfloat16")
    assert clips.shape == (16, 2, 17, 26, 3)
    np.testing.assert_array_equal(clips[:1], clip)
    np.testing.assert_array_equal(clips[1:, :, :, 1:], clips[:-1, :, :, :-1])
    np.testing.assert_array_equal(clips[1:, :, :, 0], clips[:-1, :, :, -1])
    assert len(np.unique(clips.reshape(16, -1), axis=0)) == 16


EXPECTED = {"output": np.array([1.0, 2.0, 2.0]), "cache": np.array([3.0, 4.0])}
FOUND = {"output": np.array([1.0, 2.0, 2.5]), "cache": np.array([3.0, 4.25])}


def test_the_worst_part_is_recorded_whichever_direction_is_better():
    bars = {"max_abs": Bar(), "mae": Bar(), "relative_l2": Bar(), "cosine": Bar(better="higher")}
    cosines = [float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in
               ((FOUND[part], EXPECTED[part]) for part in EXPECTED)]  # fmt: skip
    worst = {"max_abs": 0.5, "mae": 0.5 / 3, "relative_l2": 0.5 / 3, "cosine": min(cosines)}
    assert max(cosines) > min(cosines) + 1e-4
    assert measured(bars, FOUND, EXPECTED) == pytest.approx(worst)
    in_turn = ({part: side[part] for part in reversed(side)} for side in (FOUND, EXPECTED))
    assert measured(bars, *in_turn) == pytest.approx(worst)


def test_an_error_over_pytorchs_own_is_of_all_parts_together():
    in_torch = {"output": np.array([1.5, 2.0, 2.0]), "cache": np.array([3.0, 4.0])}
    assert measured({"mae_vs_torch": Bar()}, FOUND, EXPECTED, in_torch) == pytest.approx({"mae_vs_torch": 1.5})
    with pytest.raises(AssertionError, match="give in_torch"):
        measured({"mae_vs_torch": Bar()}, FOUND, EXPECTED)


@pytest.mark.parametrize(
    ("error", "of_torch", "found"),
    [(0.5, 2.0, 0.25), (0.0, 2.0, 0.0), (0.0, 0.0, 1.0), (1e-300, 0.0, np.inf), (np.inf, 2.0, np.inf)],
)
def test_an_error_where_pytorch_has_none_is_as_wrong_as_can_be_and_none_on_both_sides_is_as_good_as_pytorch(
    error, of_torch, found
):
    assert ratio(error, of_torch) == found


def test_what_has_another_shape_or_dtype_or_is_not_there_fails_by_name():
    check_shapes(FOUND, EXPECTED)
    with pytest.raises(pytest.fail.Exception, match=r"cache: found None, expected \(2,\)"):
        check_shapes({"output": FOUND["output"]}, EXPECTED)
    with pytest.raises(pytest.fail.Exception, match=r"output: found \(2,\), expected \(3,\)"):
        check_shapes(FOUND | {"output": FOUND["cache"]}, EXPECTED)
    check_dtypes(FOUND, "float64")
    with pytest.raises(pytest.fail.Exception, match=r"expected float32, found .*cache.*float64"):
        check_dtypes(FOUND | {"output": np.zeros(3, np.float32)}, "float32")
