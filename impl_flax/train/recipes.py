"""Recipes: all that a training depends on beside its clips, as data."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from twinvae.config import VAEConfig, preset_config
from twinvae.frames import DECODED_TOGETHER, ENCODED_TOGETHER, round_trip

Count = Annotated[int, Field(ge=1)]
Part = Literal["all", "decoder"]


class Stage(BaseModel):
    """Steps on clips of one size: another size is another program."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: Count
    clips: Count = 2
    frames: Count = 9
    height: Count = 64
    width: Count = 64


class Recipe(BaseModel):
    """What is trained, on what, and how.

    Attributes:
        config: the architecture.
        stages: after each other, under one learning rate's curve.
        learning_rate: at its peak, after `warmup` steps; from there a cosine leads to `last_rate` of it.
        softness: of the Charbonnier loss, which is a square below it and a distance above.
        slopes: weight of the same loss of differences between neighbouring cells and frames.
        kl: weight of the posterior's divergence from the unit Gaussian, per latent.
        clip_norm: of the gradient, which is scaled down to it.
        averaging: share of the weights' moving average that a step keeps.
        compute: the dtype of activations; weights, gradients and moments are float32.
        accumulate: parts that a step's clips are put through in, one after the other.
        remat: whether what happens inside of ResNet blocks is computed again on the way back, and not kept.
        part: "decoder" leaves the encoder, and so the latents, as they are.
    Raises:
        ValueError: fields that contradict each other or the architecture.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: VAEConfig
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]
    seed: int = Field(default=0, ge=0)
    learning_rate: float = Field(default=2e-3, gt=0)
    warmup: int = Field(default=100, ge=0)
    last_rate: float = Field(default=0.01, ge=0, le=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    averaging: float = Field(default=0.998, ge=0, lt=1)
    softness: float = Field(default=0.1, gt=0)
    slopes: float = Field(default=0.1, ge=0)
    kl: float = Field(default=1e-5, ge=0)
    compute: Literal["float32", "bfloat16", "float64"] = "float32"
    accumulate: Count = 1
    remat: bool = False
    part: Part = "all"

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        cells = self.config.spatial_compression
        for stage in self.stages:
            if stage.height % cells or stage.width % cells:
                raise ValueError(f"crops of {stage.height}x{stage.width}: each side must be a multiple of {cells}")
            trip = round_trip(stage.frames, ENCODED_TOGETHER, DECODED_TOGETHER, self.config.temporal_levels)
            if trip.back != stage.frames:
                raise ValueError(
                    f"clips of {stage.frames} frames come back as {trip.back}: a step needs as many as it is given; "
                    f"take {trip.below} or {trip.above}"
                )
            if stage.clips % self.accumulate:
                raise ValueError(f"{stage.clips} clips cannot be put through in {self.accumulate} parts of equal size")
        if self.config.in_channels != 3 or self.config.out_channels != 3:
            raise ValueError("clips have 3 channels: in_channels and out_channels must be 3")
        return self

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    def stage_of(self, step: int) -> Stage:
        """The stage that a step, counted from 0, belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        raise ValueError(f"the recipe has {self.steps} steps, and none more")


def recipes() -> dict[str, Recipe]:
    """Those that have a name."""
    return {
        "small": Recipe(
            config=preset_config("small"), stages=(Stage(steps=1200, clips=1),), learning_rate=1e-4, warmup=50
        ),
        "tiny": Recipe(config=preset_config("tiny"), stages=(Stage(steps=300, clips=1, height=32, width=48),)),
    }
