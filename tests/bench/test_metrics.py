"""The metrics: values known by hand, others' implementations, NaN and infinity, shapes, and the grades' bars."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from scipy import spatial
from scipy.ndimage import uniform_filter
from skimage import metrics as of_skimage

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


def _ssim_of_a_frame(found: np.ndarray, expected: np.ndarray) -> float:
    """Wang et al. 2004 with a uniform window of 7 cells, for values in [-1, 1]; borders are left out."""

    def mean(x: np.ndarray) -> np.ndarray:
        return uniform_filter(x, (7, 7, 1))

    c1, c2, unbiased = (0.01 * 2) ** 2, (0.03 * 2) ** 2, 49 / 48
    ux, uy = mean(found), mean(expected)
    vx, vy = (unbiased * (mean(x * x) - u * u) for x, u in ((found, ux), (expected, uy)))
    vxy = unbiased * (mean(found * expected) - ux * uy)
    likeness = (2 * ux * uy + c1) * (2 * vxy + c2) / ((ux**2 + uy**2 + c1) * (vx + vy + c2))
    return likeness[3:-3, 3:-3].mean()


# Of [b, t, h, w, c]. Each is written by others, or anew from the definition.
OTHERS = {
    "mae": lambda found, expected: spatial.distance.cityblock(found.ravel(), expected.ravel()) / found.size,
    "max_abs": lambda found, expected: spatial.distance.chebyshev(found.ravel(), expected.ravel()),
    "relative_l2": lambda found, expected: math.sqrt(math.fsum(((found - expected) ** 2).flat))
    / math.sqrt(math.fsum((expected**2).flat)),
    "cosine": lambda found, expected: 1 - spatial.distance.cosine(found.ravel(), expected.ravel()),
    "psnr": lambda found, expected: of_skimage.peak_signal_noise_ratio(expected, found, data_range=2),
    "ssim": lambda found, expected: np.mean([
        _ssim_of_a_frame(*pair)
        for pair in zip(found.reshape(-1, *found.shape[2:]), expected.reshape(-1, *expected.shape[2:]), strict=True)
    ]),
}  # fmt: skip


@pytest.mark.parametrize("spread", [1e-4, 0.05, 2.0])
@pytest.mark.parametrize("name", OTHERS)
def test_a_metric_gives_what_an_independent_implementation_gives(name, spread, video):
    found = video + spread * np.random.default_rng(1).standard_normal(video.shape)
    assert getattr(metrics, name)(found, video) == pytest.approx(OTHERS[name](found, video), rel=1e-10)


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
