"""A recipe's steps in PyTorch's words: diffusers' class, its own backward pass, and torch.optim.AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX

from impl_flax.train.recipes import Recipe
from twinvae.tensors import Tensors

DTYPES = {"float64": torch.float64, "float32": torch.float32}


class Kept(NamedTuple):
    """What steps leave, by diffusers' name and in its layout."""

    weights: Tensors
    first: Tensors
    second: Tensors


class TorchTraining:
    """A model, its optimiser, and how many steps have been taken."""

    def __init__(self, recipe: Recipe, tensors: Mapping[str, np.ndarray]):
        self.recipe, self.dtype, self.taken = recipe, DTYPES[recipe.compute], 0
        self.model = AutoencoderKLCogVideoX.from_config(recipe.config.to_dict()).to(self.dtype)
        self.model.load_state_dict({name: torch.tensor(tensor) for name, tensor in tensors.items()})
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=0.0, weight_decay=recipe.weight_decay)

    def step(self, clips: np.ndarray, noise: np.ndarray) -> float:
        """Take a step, and give the loss before it.

        Args:
            clips: bytes [b, t, h, w, 3].
            noise: of the latents, [b, t, h, w, c].
        """
        video, noise = (torch.tensor(given).to(self.dtype).movedim(-1, 1) for given in (clips, noise))
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.recipe, self.taken)
        loss = self._loss(video / 127.5 - 1, noise)
        self.optimiser.zero_grad()
        loss.backward()
        gradients = [parameter.grad for parameter in self.model.parameters()]
        norm = torch.nn.utils.get_total_norm(gradients)
        for gradient in gradients:  # PyTorch's own clip_grad_norm_ adds 1e-6 to the norm
            gradient *= torch.clamp(self.recipe.clip_norm / norm, max=1)
        self.optimiser.step()
        self.taken += 1
        return loss.item()

    def _loss(self, video: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        recipe = self.recipe
        posterior = self.model.encode(video).latent_dist
        error = self.model.decode(posterior.mean + posterior.std * noise).sample - video

        def charbonnier(x: torch.Tensor) -> torch.Tensor:
            return (torch.sqrt(x**2 + recipe.softness**2) - recipe.softness).mean()

        slopes = sum(charbonnier(error.diff(dim=axis)) for axis in (2, 3, 4)) / 3
        divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        return charbonnier(error) + recipe.slopes * slopes + recipe.kl * divergence

    def kept(self) -> Kept:
        named, moments = dict(self.model.named_parameters()), self.optimiser.state
        weights = {name: one.detach().numpy() for name, one in named.items()}
        first, second = ({n: moments[p][key].numpy() for n, p in named.items()} for key in ("exp_avg", "exp_avg_sq"))
        return Kept(weights, first, second)


def rate(recipe: Recipe, step: int) -> float:
    """The learning rate of a step, counted from 0: a line up from 0, then half a cosine down."""
    if step < recipe.warmup:
        return recipe.learning_rate * step / recipe.warmup
    gone = (step - recipe.warmup) / (max(recipe.steps, recipe.warmup + 1) - recipe.warmup)
    low = recipe.last_rate
    return recipe.learning_rate * (low + (1 - low) * (1 + math.cos(math.pi * gone)) / 2)
