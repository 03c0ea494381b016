"""Using the TorchAx backend leaves torch, and JAX's settings, in the same process as they were."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import twinvae
from twinvae.registry import backend_module
from twinvae.seeded import seeded_tensors

# Every kind of layer, at the least cost: most of the time here goes into compiling.
CONFIG = twinvae.VAEConfig(
    block_out_channels=(8, 16),
    down_block_types=("CogVideoXDownBlock3D",) * 2,
    up_block_types=("CogVideoXUpBlock3D",) * 2,
    latent_channels=4,
    layers_per_block=1,
    norm_num_groups=4,
    temporal_compression_ratio=2,
)
VIDEO = np.random.default_rng(0).uniform(-1, 1, (1, 3, 16, 16, 3)).astype(np.float32)
LATENTS = np.random.default_rng(1).normal(size=(1, 2, 2, 3, 4)).astype(np.float32)
WRONG_LATENTS = LATENTS[..., :3]  # a channel short: fails inside diffusers' forward, past this project's checks


def drawn_in_a_fork() -> float:
    with torch.random.fork_rng():
        return torch.manual_seed(7) and torch.rand(1).item()


# Each must do the same, or fail the same way, before and after.
TORCH_CALLS: dict[str, Callable[[], Any]] = {
    "fork_rng": drawn_in_a_fork,
    "stream": lambda: torch.Stream().device.type,
    "accelerator": lambda: str(torch.accelerator.current_accelerator()),
    "pinned memory": lambda: torch.empty(1, pin_memory=True).is_pinned(),
    "jax device": lambda: torch.device("jax").type,
    "module torch.jax": lambda: hasattr(torch, "jax"),
    "attention's fast path": torch.backends.mha.get_fastpath_enabled,
    "default dtype": lambda: str(torch.get_default_dtype()),
    "default device": lambda: str(torch.get_default_device()),
    "gradients enabled": torch.is_grad_enabled,
    "inference mode": torch.is_inference_mode_enabled,
    "threads": torch.get_num_threads,
    "function modes": torch._C._len_torch_function_stack,
    "dispatch modes": torch._C._len_torch_dispatch_stack,
    "dtype of a new tensor": lambda: str(torch.ones(2).dtype),
    "type of a new tensor": lambda: type(torch.ones(2) + 1).__name__,
}


def loaded(dtype: str, jit: bool) -> Any:
    module = backend_module("torchax")
    return module.load(CONFIG, seeded_tensors(CONFIG, 0), dtype=dtype, jit=jit, checkpoint="")


def torch_state() -> dict[str, Any]:
    def tried(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except RuntimeError as error:
            return str(error).splitlines()[0]

    rng = torch.get_rng_state().numpy().tobytes()
    tables = torch._decomp.global_decomposition_table
    return {
        "random numbers": hashlib.sha256(rng).hexdigest(),
        **{name: tried(call) for name, call in TORCH_CALLS.items()},
        "decompositions": sorted(f"{k} {op} {f.__module__}" for k, table in tables.items() for op, f in table.items()),
        "environment variables": dict(os.environ),
        "jax_enable_x64": jax.config.jax_enable_x64,
        "jax_default_matmul_precision": jax.config.jax_default_matmul_precision,
    }


def plain_results(model: torch.nn.Module) -> dict[str, Any]:
    """What diffusers on torch computes, gradients included, to the last bit."""
    video = torch.from_numpy(VIDEO).permute(0, 4, 1, 2, 3).requires_grad_()
    latents = model.encode(video).latent_dist.mode()
    decoded = model.decode(latents).sample
    decoded.square().sum().backward()
    arrays = [latents, decoded, video.grad, *(parameter.grad for parameter in model.parameters())]
    model.zero_grad()
    return {
        "bits": [hashlib.sha256(array.detach().numpy().tobytes()).hexdigest() for array in arrays],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "devices": sorted({str(parameter.device) for parameter in model.parameters()}),
    }


def failure(vae: Any, step: Callable[..., Any]) -> str:
    """The name of the error that a step raises from inside diffusers' forward."""
    with vae._scope():
        try:
            step("decode", vae.params, jnp.asarray(WRONG_LATENTS, vae.dtype), None)
        except (TypeError, ValueError, RuntimeError) as error:
            return type(error).__name__
    return "none"


def observe() -> dict[str, Any]:
    """In a process that has not seen TorchAx: the state before, after use, and after failures inside a step."""
    import torch._decomp.decompositions_for_rng
    import torch._refs
    from diffusers import AutoencoderKLCogVideoX

    torch.manual_seed(0)
    model = AutoencoderKLCogVideoX(**CONFIG.model_dump()).eval()
    seen = {"torchax imported before": "torchax" in sys.modules}
    plain = {"before": plain_results(model)}
    states = {"before": torch_state()}

    vaes = [loaded(dtype, jit) for dtype, jit in (("float64", True), ("bfloat16", False))]
    states["after loading"] = torch_state()
    for vae in vaes:
        vae.encode(VIDEO)
        vae.decode(LATENTS)
        vae.activations("decode", LATENTS)
    states["after use"] = torch_state()
    plain["after use"] = plain_results(model)

    seen["failures"] = [failure(vae, step) for vae in vaes for step in (vae.step, vae.named_activations)]
    states["after failures"] = torch_state()
    plain["after failures"] = plain_results(model)
    seen["decodes after failures"] = bool(np.isfinite(np.asarray(vaes[0].decode(LATENTS))).all())
    seen["hooks left"] = sum(len(module._forward_hooks) for vae in vaes for module in vae.module.modules())
    seen["weights left"] = [str(p.device) for vae in vaes for p in vae.module.parameters() if not p.is_meta]
    return {"seen": seen, "plain": plain, "states": states}


@pytest.fixture(scope="module")
def observed() -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("when", ["after loading", "after use", "after failures"])
def test_torch_and_jax_settings_are_as_before(observed: dict[str, Any], when: str) -> None:
    assert not observed["seen"]["torchax imported before"]
    before, after = observed["states"]["before"], observed["states"][when]
    assert {name: value for name, value in after.items() if value != before[name]} == {}


@pytest.mark.parametrize("when", ["after use", "after failures"])
def test_plain_diffusers_computes_the_same_bits_as_before(observed: dict[str, Any], when: str) -> None:
    assert observed["plain"][when] == observed["plain"]["before"]


def test_a_step_that_fails_inside_diffusers_leaves_no_hook_or_weight_behind(observed: dict[str, Any]) -> None:
    seen = observed["seen"]
    assert len(seen["failures"]) == 4
    assert "none" not in seen["failures"]
    assert seen["decodes after failures"]
    assert (seen["hooks left"], seen["weights left"]) == (0, [])


def test_lowerings_stay_out_of_the_default_environment() -> None:
    from impl_torchax.environment import environment
    from impl_torchax.lowerings import LOWERINGS

    own = environment()
    import torchax

    for operator in LOWERINGS:
        assert own._get_op_or_decomp(operator).is_user_defined
        assert not torchax.default_env()._get_op_or_decomp(operator).is_user_defined


def test_every_lowering_is_called(monkeypatch) -> None:
    """One that TorchAx does not come to would be right or wrong unseen."""
    from impl_torchax import environment as module

    called = set()

    def noted(operator: Any, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            called.add(operator)
            return function(*args, **kwargs)

        return run

    lowerings = {operator: noted(operator, function) for operator, function in module.LOWERINGS.items()}
    monkeypatch.setattr(module, "LOWERINGS", lowerings)
    monkeypatch.setattr(module, "environment", functools.cache(module.environment.__wrapped__))
    vae = twinvae.load("torchax", preset="tiny")
    vae.lower_encode((1, 9, 16, 16, 3))
    vae.lower_decode((1, 3, 2, 2, vae.config.latent_channels))
    assert called == set(lowerings)


def test_random_numbers_of_torch_are_not_drawn_by_loading_or_running() -> None:
    before = torch.get_rng_state()
    loaded("float32", jit=False).decode(LATENTS[:, :1])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("scope", [torch.no_grad, torch.inference_mode, lambda: torch.device("meta")])
def test_decoding_inside_a_torch_scope_gives_the_same_bits(scope: Callable[[], Any]) -> None:
    vae = loaded("float32", jit=False)
    outside = np.asarray(vae.decode(LATENTS[:, :1]))
    with scope():
        inside = np.asarray(vae.decode(LATENTS[:, :1]))
    np.testing.assert_array_equal(inside, outside)


if __name__ == "__main__":
    print(json.dumps(observe()))
