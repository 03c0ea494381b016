"""Latents to decode: ours, which say what they are, and anyone's, of which it has to be said."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.checks import check_model
from stages.files import KEY, LATENTS, TEXT, Made, digest_of, read, read_any
from stages.model import Model
from twinvae.arrays import is_float, to_numpy

LAYOUTS = ("btchw", "bcthw", "bthwc")
TO_SAY = "say what they are: --layout {layouts} (diffusers' pipelines give btchw) and --scaled or --raw"


class Given(NamedTuple):
    """Latents as they are to be decoded, and where they come from.

    Attributes:
        latents: raw, [b, t, h, w, c], without what is to be dropped.
        made: what their file says of them, of ours.
        digest: of their file's content.
    """

    latents: np.ndarray
    layout: str
    scaled: bool
    drop: int
    fps: int
    digest: str
    made: Made | None


def latents_of(
    path: Path,
    model: Model,
    *,
    layout: str | None = None,
    scaled: bool | None = None,
    drop: int | None = None,
    fps: int | None = None,
) -> Given:
    """Read latents.

    Args:
        path: a safetensors file, of ours or of anyone's with one tensor or one called "latents", or an .npy.
        layout: its axes, batch, time, channel, height and width.
        scaled: whether they are multiplied by the VAE's scaling factor, as diffusers' pipelines give them.
        drop: latents at the front that are no part of the clip, as CogVideoX1.5's with `output_type="latent"` may have.
        fps: frames in a second; None: of the file, or of the model's card.
    Raises:
        FileNotFoundError, OSError: a file that is missing or damaged.
        ValueError: latents of another model, or of which something is not said; nothing is guessed.
    """
    array, made, metadata = _read(path)
    about = made.latents if made else None
    if made:
        check_model(made, model, path)
        _check_text(made, path)
    if about:
        said = {"--layout": (layout, about.layout), "--scaled or --raw": (scaled, about.scaled),
                "--drop": (drop, about.drop)}  # fmt: skip
        for option, (given, own) in said.items():
            if given not in (None, own):
                raise ValueError(f"{path} says of itself {own!r}, and {option} says {given!r}: leave {option} out")
        layout, scaled, drop, fps = about.layout, about.scaled, about.drop, fps or about.fps
    layout, scaled = layout or metadata.get("layout"), _flag(metadata.get("scaled")) if scaled is None else scaled
    if layout is None or scaled is None:
        raise ValueError(
            f"{path} does not say {'its layout' if layout is None else 'whether it is scaled'} (shape {array.shape}): "
            + TO_SAY.format(layouts=", ".join(LAYOUTS))
        )
    if layout not in LAYOUTS:
        raise ValueError(f"{path}: layout {layout!r}, expected one of {', '.join(LAYOUTS)}")
    known = model.has("transformer")
    if drop is None:
        if not known or model.temporal_patch:
            why = "CogVideoX1.5's may have extra ones at the front" if known else f"{model.folder} has no transformer"
            raise ValueError(
                f"{path} does not say how many latents to drop at the front, and it is not known here ({why}): give "
                "--drop 0, or as many as (frames - 1) / 4 + 1 lacks to a multiple of 2"
            )
        drop = 0
    if fps is None:
        if not known:
            raise ValueError(f"{path} does not say its rate, and {model.folder} has no transformer to tell: give --fps")
        fps = model.fps
    return Given(_raw(array, path, model, layout, scaled, drop), layout, scaled, drop, fps,
                 made.content if made else digest_of({"latents": array}), made)  # fmt: skip


def _read(path: Path) -> tuple[np.ndarray, Made | None, dict[str, str]]:
    cure = "`twinvae denoise` makes it; name latents of your own with --latents"
    if path.suffix in (".pt", ".pth", ".bin", ".pkl"):
        raise ValueError(
            f"{path} is pickled, which is not read because unpickling runs code: save it with "
            "safetensors.torch.save_file({'latents': latents.contiguous()}, 'latents.safetensors')"
        )
    if path.suffix == ".npy":
        if not path.is_file():
            raise FileNotFoundError(f"{path} not found: {cure}")
        try:
            return np.load(path, allow_pickle=False), None, {}
        except (ValueError, EOFError, OSError) as error:
            raise OSError(f"{path} is no readable .npy array ({error})") from None
    tensors, metadata = read_any(path, cure)
    if KEY in metadata:
        tensors, made = read(path, "denoise")
        return tensors["latents"], made, {}
    if "latents" not in tensors and len(tensors) != 1:
        raise ValueError(f"{path} holds {', '.join(sorted(tensors)) or 'nothing'}: expected one tensor, or 'latents'")
    return tensors.get("latents", next(iter(tensors.values()))), None, metadata


def _check_text(made: Made, path: Path) -> None:
    """The text beside them is the one that they were made of, where there is one."""
    beside = path.with_name(TEXT)
    if path.name == LATENTS and beside.is_file():
        _, text = read(beside, "text")
        assert made.recipe.stage == "denoise"
        if text.content != made.recipe.inputs["text"]:
            assert text.recipe.stage == "text"
            raise ValueError(
                f"{path} was made of another {TEXT} (prompt {made.recipe.text.prompt!r:.60}, here "
                f"{text.recipe.prompt!r:.60}): run `twinvae denoise` again, or name it alone with --latents"
            )


def _raw(array: np.ndarray, path: Path, model: Model, layout: str, scaled: bool, drop: int) -> np.ndarray:
    config = model.vae_config()
    if array.ndim != 5 or array.shape[layout.index("c")] != config.latent_channels:
        raise ValueError(
            f"{path} has shape {array.shape}: expected the axes {layout}, {config.latent_channels} of them channels "
            f"({model.name}); take the model that made it, or another --layout"
        )
    if not is_float(array.dtype):
        raise ValueError(f"{path} holds {array.dtype}: expected floats")
    array = to_numpy(array).transpose([layout.index(axis) for axis in "bthwc"])
    if len(array) != 1:
        raise ValueError(f"{path} holds {len(array)} clips: save them apart, a file each")
    if not 0 <= drop < array.shape[1]:
        raise ValueError(f"{path} has {array.shape[1]} latents in time, and {drop} are to be dropped: leave 1 at least")
    wide = array[:, drop:].astype(array.dtype if array.dtype == np.float64 else np.float32)
    return 1 / config.scaling_factor * wide if scaled else wide  # in diffusers' order


def _flag(text: str | None) -> bool | None:
    return {"true": True, "false": False}.get((text or "").lower())
