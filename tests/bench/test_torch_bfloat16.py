"""The yardstick of errors in bfloat16 is PyTorch's own, whatever the processor computes it with."""

from __future__ import annotations

import pytest
import torch

from twinvae.bench.torch_bfloat16 import ProductsInFloat32


@pytest.fixture(params=["3-D, stride 2, padded", "2-D", "no bias"])
def convolution(request):
    torch.manual_seed(0)
    return {
        "3-D, stride 2, padded": (torch.nn.Conv3d(24, 16, 3, stride=2, padding=1), torch.randn(2, 24, 3, 9, 8)),
        "2-D": (torch.nn.Conv2d(24, 16, 3), torch.randn(2, 24, 9, 8)),
        "no bias": (torch.nn.Conv3d(24, 16, (1, 3, 3), bias=False), torch.randn(1, 24, 3, 9, 8)),
    }[request.param]


@torch.no_grad()
def test_a_convolution_is_pytorch_s_own_but_for_sums_on_the_edge_of_a_rounding(convolution):
    layer, x = convolution[0].bfloat16(), convolution[1].bfloat16()
    own = layer(x)
    with ProductsInFloat32():
        found = layer(x)
    assert found.dtype == torch.bfloat16
    assert (found != own).double().mean() < 0.01
    torch.testing.assert_close(found, own, rtol=2**-7, atol=2**-9)


@torch.no_grad()
def test_sums_are_kept_in_float32_and_rounded_once(convolution):
    layer, x = convolution[0].bfloat16(), convolution[1].bfloat16()
    exact = layer.double()(x.double())
    with ProductsInFloat32():
        found = layer.bfloat16()(x)
    assert (found != exact.bfloat16()).double().mean() < 0.01


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_other_dtype_is_touched(convolution, dtype):
    layer, x = convolution[0].to(dtype), convolution[1].to(dtype)
    own = layer(x)
    with ProductsInFloat32():
        assert torch.equal(layer(x), own)
