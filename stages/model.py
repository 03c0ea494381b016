"""A model: a folder as diffusers' pipelines save it, its parts by name, and what its card says."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from stages.files import digest_of_files
from twinvae.config import VAEConfig

TRANSFORMER, VAE = "CogVideoXTransformer3DModel", "AutoencoderKLCogVideoX"
PARTS = {
    "tokenizer": "T5's tokenizer",
    "text_encoder": "T5's encoder",
    "transformer": TRANSFORMER,
    "scheduler": "CogVideoXDDIMScheduler or CogVideoXDPMScheduler",
    "vae": VAE,
}
STEPS, GUIDANCE = 50, 6.0  # of every model's card
FPS, FPS_OF_15 = 8, 16
CONFIGS = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}


class Model:
    """A pipeline's folder.

    Raises:
        FileNotFoundError: no such folder.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).expanduser()
        self.name = self.folder.resolve().name
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"{folder} is no folder: name one that diffusers' `CogVideoXPipeline.save_pretrained` has written, or "
                "a download of a model such as THUDM/CogVideoX-2b"
            )

    def has(self, part: str) -> bool:
        return (self.folder / part / CONFIGS.get(part, "config.json")).is_file()

    def part(self, part: str) -> Path:
        """The folder of a part.

        Raises:
            FileNotFoundError: it is missing.
        """
        if not self.has(part):
            there = ", ".join(name for name in PARTS if self.has(name)) or "none of a pipeline's parts"
            raise FileNotFoundError(
                f"{self.folder} has no {part}/{CONFIGS.get(part, 'config.json')} ({PARTS[part]}), found {there}: copy "
                "that folder of the same model there"
            )
        return self.folder / part

    def config(self, part: str) -> dict[str, Any]:
        """A part's config.

        Raises:
            FileNotFoundError: the part is missing.
            ValueError: it is no JSON object.
        """
        path = self.part(part) / CONFIGS.get(part, "config.json")
        try:
            fields = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f"{path} is not JSON ({error}): copy it again from the same model") from None
        if not isinstance(fields, dict):
            raise ValueError(f"{path} holds a {type(fields).__name__}, expected a JSON object: copy it again")
        return fields

    def digests(self, *parts: str) -> dict[str, str]:
        """A digest of every file of each part.

        Raises:
            FileNotFoundError: a part is missing.
        """
        return {part: _digest(_state(self.part(part))) for part in parts}

    def vae_identity(self) -> str:
        """A digest of the VAE's config, which tells latents of one model from those of another."""
        return hashlib.sha256(self.vae_config().model_dump_json().encode()).hexdigest()[:32]

    def vae_config(self) -> VAEConfig:
        """Of the VAE, whose weights need not be there.

        Raises:
            FileNotFoundError, ValueError: it is missing, or no config of that class.
        """
        return VAEConfig.from_file(self.part("vae") / "config.json")

    @property
    def spatial_compression(self) -> int:
        return self.vae_config().spatial_compression

    @property
    def temporal_compression(self) -> int:
        return int(self.vae_config().temporal_compression_ratio)

    @property
    def temporal_levels(self) -> int:
        return self.vae_config().temporal_levels

    @property
    def temporal_patch(self) -> int | None:
        """Latents that a patch of the transformer spans; None before CogVideoX1.5."""
        return self.config("transformer").get("patch_size_t")

    @property
    def fps(self) -> int:
        """Of the model's card."""
        return FPS if self.temporal_patch is None else FPS_OF_15


def _state(folder: Path) -> tuple[tuple[Path, int, int], ...]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple((path, path.stat().st_size, path.stat().st_mtime_ns) for path in files)


@cache
def _digest(state: tuple[tuple[Path, int, int], ...]) -> str:
    """Of files that are as they were when they were last looked at: they are many GB."""
    return digest_of_files([path for path, _, _ in state])


def usual_dtype() -> str:
    """bfloat16 on an accelerator, which has units for it; float32 on a CPU."""
    import jax

    return "float32" if jax.default_backend() == "cpu" else "bfloat16"
