"""What tests of generation share: tiny pipelines, and what diffusers and our stages make of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline
from diffusers.pipelines.cogvideo import pipeline_cogvideox
from diffusers.schedulers import scheduling_dpm_cogvideox
from diffusers.utils.torch_utils import randn_tensor

from stages.denoise import Settings, denoise
from stages.files import read
from stages.model import Model
from stages.text import text
from suites.generation.tiny import FRAMES, NEGATIVE, PROMPT, TOKENS, read_pipeline, write_pipeline
from twinvae.bench.aot.compilers import chip_of
from twinvae.bench.options import OPTIONS

STEPS, SEED, GUIDANCE = 4, 3, 6.0
CALL: dict[str, Any] = {
    "prompt": PROMPT, "negative_prompt": NEGATIVE, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE,
    "max_sequence_length": TOKENS,
}  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under the platform of a compiler alone, programs are judged; what is computed is this machine's."""
    if chip_of(config.stash[OPTIONS].platform):
        for item in items:
            if item.path.parent == Path(__file__).parent and item.path.stem != "test_programs":
                item.add_marker(pytest.mark.skip(reason="it computes: judged under this machine's platform"))


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory) -> Callable[[str], Path]:
    """`pipelines(kind)`: the folder of a tiny pipeline."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = write_pipeline(tmp_path_factory.mktemp("pipeline") / f"tiny-{kind.replace(' ', '-')}", kind)
        return made[kind]

    return folder


@pytest.fixture
def staged(pipelines, once, tmp_path_factory) -> Callable[[str, str], Path]:
    """`staged(kind, dtype)`: the folder of a run whose text is encoded and whose latents are denoised, in 4 steps."""

    def run(kind: str, dtype: str) -> Path:
        def make() -> Path:
            folder, model = tmp_path_factory.mktemp("run"), Model(pipelines(kind))
            text(folder, model, PROMPT, NEGATIVE, dtype=dtype)
            denoise(folder, model, Settings(steps=STEPS, seed=SEED, dtype=dtype))
            return folder

        return once((__name__, "staged", kind, dtype), make)

    return run


@pytest.fixture
def of_diffusers(pipelines, once, monkeypatch) -> Callable[..., np.ndarray]:
    """`of_diffusers(kind, dtype, output)`: what its own pipeline gives, "latent" or "np".

    Noise is drawn in `drawn`: None is the pipeline's dtype, as diffusers has it. Draws of other dtypes are others.
    """

    def run(kind: str, dtype: str, output: str, drawn: str | None = None) -> np.ndarray:
        def make() -> np.ndarray:
            pipe = read_pipeline(pipelines(kind), CogVideoXPipeline, dtype)
            generator = torch.Generator().manual_seed(SEED)
            with monkeypatch.context() as patch:
                if drawn:
                    for module in (pipeline_cogvideox, scheduling_dpm_cogvideox):
                        patch.setattr(module, "randn_tensor", partial(_drawn_in, getattr(torch, drawn)))
                frames = pipe(**CALL, num_frames=FRAMES, output_type=output, generator=generator).frames
            return frames.to(torch.promote_types(frames.dtype, torch.float32)).numpy() if output == "latent" else frames

        return once((__name__, "diffusers", kind, dtype, output, drawn), make)

    return run


def _drawn_in(drawn: torch.dtype, shape: Any, *, dtype: torch.dtype, **given: Any) -> torch.Tensor:
    return randn_tensor(shape, dtype=drawn, **given).to(dtype)


def latents_in(folder: Path) -> np.ndarray:
    """The latents of a run as diffusers has them, [b, t, c, h, w]."""
    return np.moveaxis(read(folder / "latents.safetensors", "denoise")[0]["latents"], -1, 2)
