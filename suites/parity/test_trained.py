"""The trained VAE on frames of a picture: as near to diffusers as seeded weights are, and what a dtype costs in dB."""

from __future__ import annotations

import numpy as np
import pytest

from suites.parity.bars import BLOCK, LOST, QUALITY, TRAINED
from twinvae.bench import metrics
from twinvae.bench.bars import check_dtypes, check_shapes, hold, measured
from twinvae.bench.models import TRAINED as SMALL
from twinvae.bench.torch_bfloat16 import ProductsInFloat32
from twinvae.registry import REFERENCE

CLIP = (17, 64, 96)  # two frame batches, of encoder and of decoder
TRUTH = "float64"
VIDEOS = ("decode", "reconstruct")

pytestmark = [pytest.mark.clip_frames(CLIP[0]), pytest.mark.needs("moments")]


def rows(options):
    """Every dtype, or where little is to be computed the middle one; ports have weights of their own."""
    wanted = [dtype for dtype in options.dtypes if dtype == "float32" or not options.one_round]
    return [
        {"backend": backend, "dtype": dtype}
        for backend in options.backends if backend not in (REFERENCE, *options.ports) for dtype in wanted
    ]  # fmt: skip


@pytest.fixture
def in_torch(trained, film, once):
    """`in_torch(dtype)`: what PyTorch makes of the clip; latents are those of the truth."""

    def in_torch(dtype: str) -> dict[str, np.ndarray]:
        def make() -> dict[str, np.ndarray]:
            with ProductsInFloat32():
                return outputs(trained(REFERENCE, dtype), film(*CLIP), None if dtype == TRUTH else in_torch(TRUTH))

        return once((__name__, dtype), make)

    return in_torch


def outputs(vae, video, truth) -> dict[str, np.ndarray]:
    posterior = vae.encode(video)
    found = {"mean": posterior.mean, "logvar": posterior.logvar,
             "decode": vae.decode(truth["mean"] if truth else posterior.mean)}  # fmt: skip
    found["reconstruct"] = vae.decode(posterior.mean) if truth else found["decode"]
    return {name: np.asarray(array) for name, array in found.items()}


@pytest.mark.cases("backend, dtype", rows)
def test_trained_weights_compute_what_diffusers_computes(backend, dtype, trained, film, in_torch, record, exhibit):
    video, expected = film(*CLIP), in_torch(TRUTH)
    found, own = outputs(trained(backend, dtype), video, expected), in_torch(dtype)
    check_shapes(found, expected)
    check_dtypes(found, dtype)
    fields = {"preset": SMALL.label, "mode": "jit", "shape": "x".join(map(str, video.shape))}
    for operation in found:
        bars = {
            name: bar for name, bar in TRAINED[dtype].items() if operation in VIDEOS or name not in ("psnr", "ssim")
        }
        values = measured(bars, *({operation: side[operation]} for side in (found, expected, own)))
        hold(record, bars, values, "trained", operation=operation, **fields)
    quality = {side: metrics.psnr(arrays["reconstruct"], video) for side, arrays in (("", found), ("truth", expected))}
    hold(record, QUALITY, {"psnr": quality[""], LOST: quality["truth"] - quality[""]}, "trained, against the clip",
         operation="reconstruct", **fields)  # fmt: skip
    if dtype != TRUTH:
        frames = {"original": video, "reference": expected["reconstruct"], "output": found["reconstruct"]}
        exhibit("frame, trained", {name: frame[0, CLIP[0] // 2] for name, frame in frames.items()})


def grown(options):
    """In float32, where more than a little is to be computed."""
    return [row for row in rows(options) if row["dtype"] == "float32" and not options.one_round]


@pytest.mark.needs("activations")
@pytest.mark.cases("backend, dtype", grown)
@pytest.mark.parametrize("operation", ["encode", "decode"])
def test_no_block_departs_on_real_activations(operation, backend, dtype, trained, film, in_torch, record):
    given = film(*CLIP) if operation == "encode" else in_torch(TRUTH)["mean"]
    expected = trained(REFERENCE, TRUTH).activations(operation, given)
    found = {name: np.asarray(one) for name, one in trained(backend, dtype).activations(operation, given).items()}
    check_shapes(found, expected)
    for order, layer in enumerate(expected):
        values = measured(BLOCK[dtype], *({layer: side[layer]} for side in (found, expected)))
        hold(record, BLOCK[dtype], values, "blocks, trained", operation=operation, mode="jit", layer=layer, order=order,
             preset=SMALL.label, shape="x".join(map(str, given.shape)))  # fmt: skip
