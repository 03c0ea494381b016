"""Arrays that go in: torch tensors and floats of every kind, and hints that fit the shape."""

from __future__ import annotations

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from twinvae.arrays import DTYPES, checked, to_numpy, to_torch

VALUES = torch.linspace(-1, 1, 2 * 3 * 8 * 9 * 3).reshape(2, 3, 8, 9, 3)


class Subclass(torch.Tensor):
    pass


def negated(tensor: torch.Tensor) -> torch.Tensor:
    return torch._neg_view(-tensor)  # as `.imag` of a conjugate is


ACCEPTED = {
    "with a gradient": VALUES.clone().requires_grad_(),
    "parameter": torch.nn.Parameter(VALUES.clone()),
    "of a computation": VALUES.clone().requires_grad_() * 1,
    "negated view": negated(VALUES),
    "imaginary part of a conjugate": torch.complex(VALUES, -VALUES).conj().imag,
    "sparse": VALUES.to_sparse(),
    "sparse, with a gradient": VALUES.to_sparse().requires_grad_(),
    "subclass": VALUES.as_subclass(Subclass),
    "subclass with a gradient": VALUES.clone().requires_grad_().as_subclass(Subclass),
    "strided": VALUES.flip(1).transpose(2, 3).contiguous().transpose(2, 3).flip(1),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_torch_tensors_of_any_kind_are_taken(kind):
    np.testing.assert_array_equal(to_numpy(ACCEPTED[kind]), VALUES.numpy())


@pytest.mark.parametrize(
    "array", [np.ones(3, np.float32), np.ones((2, 3)).T, jnp.ones(3)], ids=["NumPy", "view", "JAX"]
)
def test_a_tensor_may_be_written_to_without_changing_what_it_was_made_of(array):
    to_torch(np.asarray(array)).zero_()
    assert np.all(np.asarray(array) == 1)


HALF = VALUES.bfloat16()
ACCEPTED_HALF = {
    "plain": HALF, "with a gradient": HALF.clone().requires_grad_(), "negated view": negated(HALF),
    "subclass": HALF.as_subclass(Subclass), "sparse": HALF.to_sparse(), "parameter": torch.nn.Parameter(HALF.clone()),
}  # fmt: skip


@pytest.mark.parametrize("kind", ACCEPTED_HALF)
def test_bfloat16_tensors_of_any_kind_stay_bfloat16(kind):
    found = to_numpy(ACCEPTED_HALF[kind])
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found.astype(np.float32), HALF.float().numpy())


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_float8_is_taken_from_torch_and_from_numpy_alike(name):
    small = VALUES.to(getattr(torch, name))
    of_numpy = small.view(torch.uint8).numpy().view(getattr(ml_dtypes, name))
    for given in (small, of_numpy):
        np.testing.assert_array_equal(checked(given, "video", 3, DTYPES["float32"], 8), small.float().numpy())


REFUSED = {
    "meta": VALUES.to("meta"),
    "nested": torch.nested.nested_tensor(list(VALUES), layout=torch.jagged),
    "traced by torch": FakeTensorMode().from_tensor(VALUES),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_tensor_without_values_for_numpy_is_refused_with_what_to_pass(kind):
    with pytest.raises(ValueError, match=r"a torch .* no values that NumPy can hold .*: pass a plain tensor"):
        to_numpy(REFUSED[kind])


@pytest.mark.parametrize("dtype", [np.complex64, bool, np.int8, object, str])
def test_what_is_no_float_is_named(dtype):
    with pytest.raises(ValueError, match="expected floats"):
        checked(np.zeros((1, 2, 8, 8, 3)).astype(dtype), "video", 3, DTYPES["float32"], 8)


HINTS = {  # a shape, what it is of, its channels, the least height and width; the hint
    "RGBA": ((1, 3, 16, 16, 4), "video", 3, 8, r"RGBA pass video\[\.\.\., :3\]"),
    "gray": ((1, 3, 16, 16, 1), "video", 3, 8, r"gray pass np\.repeat"),
    "gray with alpha": ((1, 3, 16, 16, 2), "video", 3, 8, r"gray pass np\.repeat"),
    "other channels": ((1, 3, 16, 16, 6), "video", 3, 8, None),
    "channels second": ((1, 3, 5, 16, 24), "video", 3, 8, "channels are second here"),
    "latents, channels second": ((1, 16, 13, 60, 90), "latents", 16, 1, "channels are second here"),
    "other latents": ((1, 13, 60, 90, 8), "latents", 16, 1, None),
}  # fmt: skip


@pytest.mark.parametrize("case", HINTS)
def test_a_hint_says_what_the_shape_tells_and_no_more(case):
    shape, what, channels, least, hint = HINTS[case]
    with pytest.raises(ValueError, match=f"{what} has {shape[-1]} channels .* expected {channels}") as error:
        checked(np.zeros(shape, np.float32), what, channels, DTYPES["float32"], least)
    message = str(error.value)
    if hint:
        assert error.match(hint)
    assert ("second here" in message) is (hint == "channels are second here")
