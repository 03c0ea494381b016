"""The metrics: values known by hand, NaN and infinity, shapes, and the grades' bars."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from twinvae.bench import metrics

EXPECTED = np.array([3.0, -4.0, 0.0, 0.0])
FOUND = EXPECTED + np.array([0.0, 0.0, 0.5, -1.5])
BY_HAND = {
    "mae": 0.5,
    "max_abs": 1.5,
    "relative_l2": math.sqrt(2.5) / 5,
    "cosine": 25 / (math.sqrt(27.5) * 5),
    "psnr": 10 * math.log10(4 / (2.5 / 4)),
}
WORST = {"mae": np.inf, "max_abs": np.inf, "relative_l2": np.inf, "cosine": -1, "psnr": -np.inf, "ssim": -1}
EQUAL = {"mae": 0, "max_abs": 0, "relative_l2": 0, "cosine": 1, "psnr": np.inf, "ssim": 1}
GRADES = {
    0: "exact", 9e-7: "exact", 1e-6: "excellent", 9e-5: "excellent", 1e-4: "good", 9e-4: "good", 1e-3: "suspicious",
    9e-3: "suspicious", 1e-2: "drifting", 9e-2: "drifting", 0.1: "broken", 5: "broken", np.inf: "broken",
    np.nan: "broken",
}  # fmt: skip


@pytest.fixture
def video() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (1, 2, 9, 12, 3))


@pytest.mark.parametrize(("name", "value"), BY_HAND.items())
def test_a_metric_gives_the_value_worked_out_by_hand(name, value):
    assert getattr(metrics, name)(FOUND, EXPECTED) == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize(("name", "value"), EQUAL.items())
def test_equal_videos_get_the_best_value(name, value, video):
    assert getattr(metrics, name)(video, video.copy()) == pytest.approx(value)


@pytest.mark.parametrize(("name", "value"), EQUAL.items())
def test_a_nan_at_the_same_place_is_left_out(name, value, video):
    video[0, 1, 2, 3, 0] = np.nan
    video[0, 1, 2, 4, 0] = np.inf
    assert getattr(metrics, name)(video, video.copy()) == pytest.approx(value)


@pytest.mark.parametrize(("name", "value"), WORST.items())
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_a_nan_or_infinity_on_one_side_alone_gets_the_worst_value(name, value, broken, side, video):
    pair = [video, video.copy()]
    pair[side][0, 1, 2, 3, 0] = broken
    assert getattr(metrics, name)(*pair) == value


@pytest.mark.parametrize("name", WORST)
def test_opposite_infinities_get_the_worst_value(name, video):
    other = video.copy()
    video[0, 0, 0, 0, 0], other[0, 0, 0, 0, 0] = np.inf, -np.inf
    assert getattr(metrics, name)(video, other) == WORST[name]


@pytest.mark.parametrize("name", WORST)
def test_shapes_are_never_broadcast(name, video):
    with pytest.raises(ValueError, match=r"found \(1, 1, 9, 12, 3\), expected \(1, 2, 9, 12, 3\)"):
        getattr(metrics, name)(video[:, :1], video)


def test_bfloat16_is_compared_in_full_precision():
    found = np.full(1000, 0.1, ml_dtypes.bfloat16)
    assert metrics.mae(found, np.full(1000, 0.1)) == pytest.approx(abs(float(found[0]) - 0.1), rel=1e-12)


def test_a_relative_error_does_not_depend_on_scale_and_an_absolute_one_does():
    assert metrics.relative_l2(FOUND * 8, EXPECTED * 8) == pytest.approx(BY_HAND["relative_l2"])
    assert metrics.mae(FOUND * 8, EXPECTED * 8) == pytest.approx(8 * BY_HAND["mae"])


def test_a_zero_reference_makes_a_relative_error_infinite_unless_both_are_zero():
    assert metrics.relative_l2(np.ones(3), np.zeros(3)) == np.inf
    assert metrics.relative_l2(np.zeros(3), np.zeros(3)) == 0


def test_ssim_falls_with_noise_and_takes_frames_smaller_than_its_window(video):
    noisy = [metrics.ssim(video + strength * np.cos(np.arange(12))[:, None], video) for strength in (0.01, 0.1, 1)]
    assert 1 > noisy[0] > noisy[1] > noisy[2]
    assert metrics.ssim(video[:, :, :3, :4], video[:, :, :3, :4]) == 1


def test_ssim_averages_over_frames_and_batch_items(video):
    one_wrong = video.copy()
    one_wrong[:, 1] = video[:, 1, ::-1]
    expected = (1 + metrics.ssim(one_wrong[:, 1:], video[:, 1:])) / 2
    assert metrics.ssim(one_wrong, video) == pytest.approx(expected)


@pytest.mark.parametrize(("error", "word"), GRADES.items())
def test_a_grade_is_the_word_for_its_mean_absolute_error(error, word):
    assert metrics.grade(error) == word
