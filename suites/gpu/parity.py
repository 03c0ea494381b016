"""Parity on a card: errors over those that PyTorch makes on the same card, both against PyTorch in more precision."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import torch

import twinvae
from suites.gpu.steps import Step
from suites.parity.bars import CARD, ON_A_CARD
from suites.speed.contenders import TORCH_DEVICE, full_precision
from twinvae import arrays
from twinvae.bench.bars import WHOLE, check_dtypes, check_shapes, hold, measured
from twinvae.bench.clips import synthetic_clip
from twinvae.bench.options import Model
from twinvae.registry import REFERENCE

TRUTH_PIXELS = 9 * 96 * 160  # up to which float64 is the truth, which a card computes 30 times as slowly
PARTS = ("mean", "logvar", "decode")
Outputs = dict[str, np.ndarray]


def measure_parity(step: Step, model: Model, record: Callable[..., None]) -> None:
    """Hold each backend to PyTorch on this card, in each dtype of the step."""
    video = synthetic_clip(*step.size[:3])
    small = int(np.prod(step.size[:3])) <= TRUTH_PIXELS
    truth = "float64" if small or "float32" in step.dtypes else "float32"
    expected = in_torch(model, truth, video, None)
    latents = expected["mean"]
    own = {dtype: in_torch(model, dtype, video, latents) for dtype in step.dtypes}
    shape = "x".join(map(str, video.shape))
    for dtype in step.dtypes:
        of_torch = {part: measured({"mae": WHOLE[dtype]["mae"]}, {part: own[dtype][part]}, {part: expected[part]})
                    for part in PARTS}  # fmt: skip
        for part, values in of_torch.items():
            record(case=CARD, backend=REFERENCE, mode="eager", dtype=dtype, operation=part, shape=shape,
                   metric="mae", value=values["mae"], tolerance=float("inf"), note=f"against {truth}")  # fmt: skip
    for backend, mode in step.contenders:
        for dtype in step.dtypes:
            vae = twinvae.load(backend, **model.source, dtype=dtype)
            found = outputs(vae, video, latents)
            check_shapes(found, expected)
            check_dtypes(found, dtype)
            for part in PARTS:
                sides = ({part: side[part]} for side in (found, expected, own[dtype]))
                held = {name: bar for name, bar in ON_A_CARD[dtype].items() if part == "decode" or name != "psnr"}
                hold(record, held, measured(held, *sides), CARD, backend=backend, mode=mode, dtype=dtype,
                     operation=part, shape=shape, note=f"against {truth}")  # fmt: skip
            del vae
            gc.collect()


def outputs(vae: twinvae.VideoVAE, video: np.ndarray, latents: np.ndarray) -> Outputs:
    posterior = vae.encode(video)
    found = {"mean": posterior.mean, "logvar": posterior.logvar, "decode": vae.decode(latents)}
    return {name: np.asarray(array) for name, array in found.items()}


@torch.no_grad()
def in_torch(model: Model, dtype: str, video: np.ndarray, latents: np.ndarray | None) -> Outputs:
    """What diffusers gives on this card; it decodes its own latents where there are none."""
    vae = twinvae.load(REFERENCE, **model.source, dtype=dtype).model.to(TORCH_DEVICE)

    def given(array: np.ndarray) -> torch.Tensor:
        kind = getattr(torch, dtype)
        return arrays.to_torch(array).permute(0, 4, 1, 2, 3).contiguous().to(TORCH_DEVICE, kind)

    def taken(tensor: torch.Tensor) -> np.ndarray:
        return arrays.to_numpy(tensor.permute(0, 2, 3, 4, 1).contiguous().cpu())

    with full_precision():
        posterior = vae.encode(given(video)).latent_dist
        found = {"mean": taken(posterior.mean), "logvar": taken(posterior.logvar)}
        found["decode"] = taken(vae.decode(given(found["mean"] if latents is None else latents)).sample)
    del vae, posterior
    gc.collect()
    if TORCH_DEVICE == "cuda":
        torch.cuda.empty_cache()
    return found
