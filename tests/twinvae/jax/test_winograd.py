"""Winograd's forms: they round no more than the points that were chosen for them, and multiply as seldom as can be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from twinvae.jax.compiling import tracing_for
from twinvae.jax.convolution import WIDE, convolve3d
from twinvae.jax.winograd import POINTS, TAPS, blocks, convolve_blocks, pairs

# The root mean square error in float32 with these points, alike within 6% in six draws. Of others that anyone would
# take, 0, 1, -1, 2 and -2 in F(4, 3) give 1.29 times that, and 0, 1 and -1/2 in F(2, 3) 1.43 times: the bar is 1.15.
MEASURED = {2: 7.0e-8, 3: 1.42e-7, 4: 1.67e-7}


def product(x, kernel):
    """Sums over channels that round once, so that the forms alone err, and alike on every machine."""
    sums = np.einsum("bnhwc,hwco->bnhwo", np.asarray(x, np.float64), np.asarray(kernel, np.float64))
    return jnp.asarray(sums, jnp.float32)


@pytest.mark.parametrize("m", MEASURED)
def test_a_form_errs_no_more_than_its_points_did(m):
    random = np.random.default_rng(m)
    x = random.normal(size=(32, m + TAPS - 1, 1, 1, 16)).astype(np.float32)
    kernel = (random.normal(size=(TAPS, 1, 1, 16, 256)) / np.sqrt(TAPS * 16)).astype(np.float32)
    seen = np.stack([x[:, tap : tap + m] for tap in range(TAPS)], dtype=np.float64)
    exact = np.einsum("kbnhwc,khwco->bnhwo", seen, kernel.astype(np.float64))
    found = convolve_blocks(jnp.asarray(x), jnp.asarray(kernel), product)
    assert np.sqrt(np.mean(np.square(found - exact, dtype=np.float64))) <= 1.15 * MEASURED[m]


def test_frames_fall_into_the_blocks_that_multiply_least():
    fewest = [0]
    for frames in range(1, 40):
        fewest.append(min(m + TAPS - 1 + fewest[frames - m] for m in (1, *POINTS) if m <= frames))
        found = blocks(frames)
        assert sum(found) == frames
        assert sum(m + TAPS - 1 for m in found) == fewest[frames]


@pytest.mark.parametrize("rows", range(2, 8))
def test_rows_fall_into_pairs_and_at_most_one_block_of_three(rows):
    assert pairs(rows) == [3] * (rows % 2) + [2] * ((rows - 3 * (rows % 2)) // 2)


@pytest.mark.parametrize("pads", [((1, 1), (1, 1)), ((0, 0), (1, 1)), ((1, 1), (0, 0))], ids=str)
@pytest.mark.parametrize("rows", [3, 4, 5])
def test_a_wide_convolution_is_pytorchs_whatever_its_rows_and_padding(rows, pads):
    random = np.random.default_rng(rows)
    x, kernel = random.normal(size=(2, 4, rows, 3, WIDE)), random.normal(size=(TAPS, TAPS, TAPS, WIDE, 2))
    padded = np.pad(x, ((0, 0), (0, 0), *pads, (0, 0)))
    weight = torch.from_numpy(kernel).permute(4, 3, 0, 1, 2)
    expected = torch.nn.functional.conv3d(torch.from_numpy(padded).permute(0, 4, 1, 2, 3), weight)
    with jax.enable_x64(True):
        found = convolve3d(jnp.asarray(x), jnp.asarray(kernel), (1, 1, 1), pads)
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 4, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("rows", "channels", "dtype", "platform", "taken"),
    [
        (4, WIDE, jnp.float32, "cpu", 24),  # 4 frames and then 2 rows from 6 times 4 products
        (1, WIDE, jnp.float32, "cpu", 6),
        (4, WIDE - 1, jnp.float32, "cpu", TAPS),
        (4, WIDE, jnp.bfloat16, "cpu", TAPS),
        (4, WIDE, jnp.float32, "tpu", 1),
        (4, WIDE, jnp.float32, "cuda", 1),
    ],
)
def test_a_convolution_takes_the_products_of_its_platform(rows, channels, dtype, platform, taken):
    x, kernel = jnp.zeros((1, 6, rows, 4, channels), dtype), jnp.zeros((TAPS, TAPS, TAPS, channels, 2), dtype)

    def convolve(x, kernel):
        return convolve3d(x, kernel, (1, 1, 1), ((1, 1), (1, 1)))

    with tracing_for(platform):
        lowered = (
            jax.jit(convolve).trace(x, kernel).lower(lowering_platforms=("cuda" if platform == "gpu" else platform,))
        )
    assert lowered.as_text().count("stablehlo.convolution(") == taken
