"""The forms that programs for GPUs take, lowered and run without a GPU: the same function as the other forms."""

from __future__ import annotations

import re
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import impl_flax
import impl_torchax
from twinvae import VAEConfig
from twinvae.arrays import DTYPES, dtype_scope
from twinvae.jax.compiling import GPU, compiler_options, on_gpu, tracing_for
from twinvae.jax.convolution import _convolve
from twinvae.jax.moments import SPARSE, channel_moments
from twinvae.seeded import seeded_tensors

BACKENDS = {"flax": impl_flax, "torchax": impl_torchax}
SMALL = VAEConfig(
    down_block_types=("CogVideoXDownBlock3D",) * 2,
    up_block_types=("CogVideoXUpBlock3D",) * 2,
    block_out_channels=(8, 16),
    norm_num_groups=4,
    latent_channels=3,
    layers_per_block=1,
)
BATCHES = {"decode": (3, 2), "encode": (9, 8)}  # frames of a first batch, and of one after it
CONVOLUTION = re.compile(r"stablehlo\.convolution.* : \(tensor<(\S+)>, tensor<(\S+)>\) -> tensor<(\S+)>")


def load(backend, dtype):
    return BACKENDS[backend].load(SMALL, seeded_tensors(SMALL, 0), dtype=dtype, jit=True, checkpoint="")


def batches(vae, operation):
    side, channels = (12, 3) if operation == "encode" else (6, vae.config.latent_channels)
    shapes = [(1, frames, side, side, channels) for frames in BATCHES[operation]]
    return [np.random.default_rng(shape[1]).normal(size=shape).astype(DTYPES[vae.dtype]) for shape in shapes]


@cache
def run(backend, operation, dtype, platform):
    """A first frame batch and one after it, traced for a platform and run here."""
    vae, cache, parts = load(backend, dtype), None, []
    with dtype_scope(DTYPES[dtype]), tracing_for(platform):
        for frames in batches(vae, operation):
            part, cache = jax.jit(partial(vae.step, operation))(vae.params, frames, cache)
            parts.append(np.asarray(part, np.float64))
    return np.concatenate(parts, axis=1)


def convolutions(backend, operation, platform):
    """Of both batches: the types of each convolution's frames, kernel and result."""
    vae, cache, found = load(backend, "bfloat16"), None, []
    with tracing_for(platform):
        for frames in batches(vae, operation):
            traced = jax.jit(partial(vae.step, operation)).trace(vae.params, frames, cache)
            found += CONVOLUTION.findall(traced.lower(lowering_platforms=(platform,)).as_text())
            _, cache = jax.eval_shape(partial(vae.step, operation), vae.params, frames, cache)
    return found


@pytest.mark.parametrize("operation", BATCHES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_forms_for_gpus_are_the_same_function(backend, operation):
    expected = run(backend, operation, "float64", "cpu")
    np.testing.assert_allclose(run(backend, operation, "float64", "cuda"), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_forms_for_gpus_round_float32_no_worse(backend):
    exact = run(backend, "decode", "float64", "cpu")
    cpu, cuda = (np.abs(run(backend, "decode", "float32", platform) - exact).mean() for platform in ("cpu", "cuda"))
    assert cuda <= 1.1 * cpu


@pytest.mark.parametrize("operation", BATCHES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_convolution_of_a_bfloat16_program_for_gpus_is_bfloat16(backend, operation):
    for platform, kinds in {"cuda": {"bf16"}, "tpu": {"f32"}}.items():
        found = convolutions(backend, operation, platform)
        assert {result.rsplit("x", 1)[1] for _, _, result in found} == kinds
        assert {frames.rsplit("x", 1)[1] for frames, _, _ in found} == {"bf16"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_frames_of_more_numbers_than_cudnn_counts_are_convolved_in_pieces(monkeypatch, backend):
    most = 7000  # diffusers itself sees to the 3-D convolutions of TorchAx, by their bytes
    monkeypatch.setattr("twinvae.jax.convolution.INDEXED", most)
    jax.clear_caches()  # of convolutions that were traced whole
    values = run.__wrapped__(backend, "decode", "float64", "cuda")
    np.testing.assert_allclose(values, run(backend, "decode", "float64", "cpu"), rtol=0, atol=1e-10)
    arrays = {array for frames, _, result in convolutions(backend, "decode", "cuda") for array in (frames, result)}
    sizes = [[int(side) for side in array.split("x")[:-1]] for array in arrays]
    jax.clear_caches()  # of those in pieces
    assert all(np.prod(size) <= most for size in sizes if backend == "flax" or len(size) == 4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_scales_and_shifts_are_made_of_latents_and_not_of_enlarged_ones(backend):
    channels = SMALL.latent_channels
    pointwise = f"1x1x1x{channels}x"
    made_of = {frames for frames, kernel, _ in convolutions(backend, "decode", "cuda") if kernel.startswith(pointwise)}
    assert made_of == {f"1x{frames}x6x6x{channels}xbf16" for frames in BATCHES["decode"]}


def test_a_bfloat16_convolution_for_gpus_rounds_once_and_its_bias_is_rounded_after_it():
    random = np.random.default_rng(0)
    x, kernel = (jnp.asarray(random.normal(size=size), jnp.bfloat16) for size in [(1, 4, 8, 8, 64), (3, 3, 3, 64, 8)])
    bias = jnp.asarray(random.normal(size=8), jnp.bfloat16)
    pads = ((0, 0), (1, 1), (1, 1))
    with tracing_for("cuda"):
        found = _convolve(x, kernel, (1, 1, 1), pads)
    exact = torch.nn.functional.conv3d(
        torch.tensor(np.asarray(x, np.float64)).movedim(-1, 1),
        torch.tensor(np.asarray(kernel, np.float64)).permute(4, 3, 0, 1, 2),
        padding=(0, 1, 1),
    ).movedim(1, -1).numpy()  # fmt: skip
    assert found.dtype == jnp.bfloat16
    unit = 2.0 ** np.floor(np.log2(np.abs(exact))) / 2**7  # the distance of bfloat16 values there
    assert np.all(np.abs(np.asarray(found, np.float64) - exact) <= 0.51 * unit)
    with tracing_for("cuda"):
        biased = impl_flax.layers.conv3d(x, kernel, bias, pads=pads[1:])
    assert np.abs(np.asarray(biased, np.float64) - (exact + np.asarray(bias, np.float64))).mean() < 0.6 * unit.mean()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mean", [0, 300])
def test_moments_keep_their_digits_beside_a_large_mean(mean, dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(mean, size=(2, 3, 40, 24, 4)), dtype)
    exact = np.asarray(x, np.float64)
    means, variances = channel_moments(x.astype(jnp.float32))
    np.testing.assert_allclose(means, exact.mean((1, 2, 3)), rtol=3e-7, atol=3e-7)
    np.testing.assert_allclose(variances, exact.var((1, 2, 3)), rtol=2e-6)


def test_moments_keep_their_digits_where_every_eighth_row_is_unlike_the_others():
    x = np.random.default_rng(0).normal(300, size=(1, 3, 40, 24, 4))
    x[:, :, ::SPARSE] -= 300
    x = x.astype(np.float32)
    means, variances = channel_moments(jnp.asarray(x))
    np.testing.assert_allclose(means, x.astype(np.float64).mean((1, 2, 3)), rtol=3e-7)
    np.testing.assert_allclose(variances, x.astype(np.float64).var((1, 2, 3)), rtol=5e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mean", [0, 300])
@pytest.mark.parametrize("backend", BACKENDS)
def test_group_norm_errs_no_more_than_torchs(backend, mean, dtype):
    random = np.random.default_rng(1)
    # Eight clips, as a mean's rounding is luck: 0.4 to 1.9 times torch's error in one, 0.5 to 1.03 in eight.
    x = random.normal(mean, size=(8, 3, 24, 16, 8)).astype(DTYPES[dtype])
    tensors = {name: random.normal(size=8).astype(DTYPES[dtype]) for name in ("weight", "bias")}

    def torchs(kind):
        x_, weight, bias = (torch.tensor(np.asarray(a, np.float64)).to(kind) for a in (x, *tensors.values()))
        x_ = x_.movedim(-1, 1).contiguous()  # of a view, torch errs 500 times as much at a mean of 300
        out = torch.nn.functional.group_norm(x_, 4, weight, bias, 1e-6)
        return out.movedim(1, -1).double().numpy()

    with tracing_for("cuda"):
        init = {"num_groups": 4, "num_channels": 8, "eps": 1e-6}
        norm = BACKENDS[backend].load_layer("GroupNorm", init, tensors, dtype=dtype, jit=True)
        found = np.asarray(norm(x)[0], np.float64)
    exact = torchs(torch.float64)
    assert np.abs(found - exact).mean() <= 1.1 * np.abs(torchs(getattr(torch, dtype)) - exact).mean()


def test_options_are_those_of_a_gpu_by_either_name_and_of_bfloat16_alone():
    assert compiler_options("cuda") == compiler_options("gpu", "bfloat16") == GPU
    assert compiler_options("gpu", "float32") == {}


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_traced_for_a_platform_is_the_same_whatever_was_traced_before(backend):
    """A trace that is kept inside of a backend is kept by all that it depends on."""
    vae, found = load(backend, "bfloat16"), {"cpu": set(), "cuda": set()}
    frames = batches(vae, "decode")[1]
    for platforms in (("cpu", "cuda"), ("cuda", "cpu")):
        jax.clear_caches()
        for platform in platforms:
            with tracing_for(platform):
                text = jax.jit(partial(vae.step, "decode")).trace(vae.params, frames, None).lower().as_text()
            found[platform].add(text)
    assert [len(texts) for texts in found.values()] == [1, 1]
    assert not found["cpu"] & found["cuda"]


def test_a_platform_is_traced_for_no_longer_than_it_is_asked_for():
    with pytest.raises(KeyboardInterrupt), tracing_for("cuda"):
        raise KeyboardInterrupt
    assert not on_gpu()
