"""What is refused before anything is computed: sizes that a model does not take, and files of another model."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from stages.files import Denoise, Made
from stages.model import Model
from twinvae.frames import DECODED_TOGETHER, sample_count


class Sizes(NamedTuple):
    frames: int
    height: int
    width: int


def latent_frames(model: Model, frames: int) -> int:
    return (frames - 1) // model.temporal_compression + 1


def padded_latents(model: Model, frames: int) -> int:
    """Latents in time that are denoised: those of the frames, and before them what fills the transformer's patches."""
    patch = model.temporal_patch or 1
    return -(-latent_frames(model, frames) // patch) * patch


def check_sizes(
    model: Model, frames: int | None, height: int | None, width: int | None, from_video: bool = False
) -> Sizes:
    """The size of a video, of the model's own where none is given.

    Args:
        from_video: it is made of another one, whose latents nothing is added to.
    Raises:
        ValueError: a size that the model does not take; the message names the nearest that it does.
    """
    config, cell = model.config("transformer"), model.spatial_compression
    sizes = Sizes(
        config["sample_frames"] if frames is None else frames,
        config["sample_height"] * cell if height is None else height,
        config["sample_width"] * cell if width is None else width,
    )
    patch = model.temporal_patch

    def comes_back(count: int) -> bool:
        latents = latent_frames(model, count)
        whole = not (from_video and patch and latents % patch)
        return count > 0 and whole and sample_count(latents, DECODED_TOGETHER, model.temporal_levels) == count

    if not comes_back(sizes.frames):
        near = [count for count in range(max(1, sizes.frames - 32), max(1, sizes.frames) + 33) if comes_back(count)]
        below = max((count for count in near if count < sizes.frames), default=None)
        above = min(count for count in near if count > sizes.frames)
        raise ValueError(
            f"{sizes.frames} frames: this model decodes to another number of them; take "
            f"{above if below is None else f'{below} or {above}'}"
        )
    step, learned = cell * config["patch_size"], config.get("use_learned_positional_embeddings", False)
    for name, found in zip(("height", "width"), sizes[1:], strict=True):
        own = config[f"sample_{name}"] * cell
        most = own if learned or patch else None  # CogVideoX1.5's tables of positions end there
        if learned and found != own:
            raise ValueError(f"a {name} of {found}: this model has learned {own} alone; take that")
        if found < step or found % step or (most and found > most):
            near = sorted({max(step, found // step * step), -(-max(found, 1) // step) * step})
            near = [min(size, most) for size in near] if most else near
            raise ValueError(
                f"a {name} of {found}: expected a multiple of {step}{f', at most {most}' if most else ''}; take "
                f"{' or '.join(map(str, sorted(set(near))))}"
            )
    return sizes


def check_model(made: Made, model: Model, path: Path) -> None:
    """Hold what a file was made with against a model.

    Raises:
        ValueError: a part that both have is another one.
    """
    parts = dict(made.recipe.parts) | (made.recipe.text.parts if isinstance(made.recipe, Denoise) else {})
    for part, digest in parts.items():
        if model.has(part) and model.digests(part)[part] != digest:
            raise ValueError(
                f"{path} is of another model: it was made with another {part} (model {made.recipe.model!r}, here "
                f"{model.name!r}); name that model, or make the file again with `twinvae {made.recipe.stage}`"
            )
    if isinstance(made.recipe, Denoise) and made.recipe.vae_config != model.vae_identity():
        raise ValueError(
            f"{path} is of another model: its VAE has another config (model {made.recipe.model!r}, here "
            f"{model.name!r}), such as another scaling factor; name that model"
        )
