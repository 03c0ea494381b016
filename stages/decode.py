"""Decoding: latents to `video.mp4` with `decode.json`, by one backend, held against others frame by frame if asked."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import twinvae
from stages.files import (
    DECODED,
    LATENTS,
    VIDEO,
    Decode,
    describe,
    differences,
    digest_of_files,
    parse,
    same,
    whole,
)
from stages.latents import Given, latents_of
from stages.model import Model, usual_dtype
from stages.telling import QUIET, counting, say
from stages.video import as_bytes, ffmpeg, write_video
from twinvae.frames import DECODED_TOGETHER, sample_count


def decode(
    folder: Path,
    model: Model,
    *,
    latents: Path | None = None,
    layout: str | None = None,
    scaled: bool | None = None,
    drop: int | None = None,
    fps: int | None = None,
    backend: str = "flax",
    compare: Sequence[str] = (),
    dtype: str | None = None,
    tiling: bool = False,
    mesh: Any = None,
    console: Console = QUIET,
) -> Path:
    """Decode latents to a video.

    Args:
        folder: of the run; the video is written there.
        latents, layout, scaled, drop, fps: see `stages.latents.latents_of`; None: `latents.safetensors` of the folder.
        backend: whose frames are written.
        compare: other backends, of which every frame is held against those; `decode.json` says how far they are.
        tiling: decode in diffusers' tiles.
        mesh: of devices, see `twinvae.make_mesh`.
    Raises:
        ValueError: latents that are refused, an unknown backend, or frames with NaN.
        FileNotFoundError, OSError: files or parts that are missing, ffmpeg too, or a folder that cannot be written.
    """
    given = latents_of(latents or folder / LATENTS, model, layout=layout, scaled=scaled, drop=drop, fps=fps)
    if given.fps < 1:
        raise ValueError(f"{given.fps} frames in a second: give 1 or more")
    recipe = Decode(
        model=model.name, parts=model.digests("vae"), inputs={"latents": given.digest}, layout=given.layout,  # type: ignore[arg-type]
        scaled=given.scaled, drop=given.drop, backend=backend, compare=tuple(compare), dtype=dtype or usual_dtype(),
        tiling=tiling, fps=given.fps,
    )  # fmt: skip
    path = folder / VIDEO
    why = reason(folder, recipe)
    if not why:
        say(console, f"decode: {path} is of these latents, this model and these settings: kept")
        return path
    say(console, f"decode: {why}")
    ffmpeg()  # before minutes of decoding
    began, compared = time.monotonic(), {name: [] for name in compare}
    chunks = _chunks(given, model, recipe, mesh, compared, console)
    frames, height, width = write_video(path, chunks, given.fps)
    seconds = time.monotonic() - began
    facts = {"frames": frames, "height": height, "width": width, "fps": given.fps, "seconds": round(seconds, 2)}
    if compared:
        facts["compared"] = compared
        _show(console, backend, compared)
    made = describe(digest_of_files([path]), recipe, facts=facts)
    with whole(folder / DECODED) as beside:
        beside.write_text(json.dumps(made.model_dump(mode="json"), indent=1) + "\n")
    say(console, f"decode: wrote {path}, {frames} frames of {height}x{width}, {given.fps} a second, in {seconds:.1f} s")
    return path


def reason(folder: Path, wanted: Decode) -> str:
    """Why the video has to be made; "" where it is there, whole, and of the same latents and settings."""
    video, told = folder / VIDEO, folder / DECODED
    if not video.is_file() or not told.is_file():
        return f"{(video if not video.is_file() else told).name} is not there yet"
    try:
        made = parse(told.read_text(), told, "made anew")
    except (OSError, ValueError) as error:
        return str(error)
    return "; ".join(differences(made.recipe, wanted)) or (
        "" if same(made, digest_of_files([video])) else f"{VIDEO} is not the one that {DECODED} tells of"
    )


def decoded(
    given: Given, model: Model, backend: str, dtype: str, tiling: bool = False, mesh: Any = None
) -> Iterator[np.ndarray]:
    """Frames in about [-1, 1], [t, h, w, c], a frame batch at a time."""
    vae = twinvae.load(backend, weights=str(model.folder), subfolder="vae", dtype=dtype, mesh=mesh)
    if tiling:
        vae.enable_tiling()
    for chunk in vae.decode_stream(given.latents):
        yield np.asarray(chunk)[0]


def _chunks(
    given: Given, model: Model, recipe: Decode, mesh: Any, compared: dict[str, list[Any]], console: Console
) -> Iterator[np.ndarray]:
    config = model.vae_config()
    total = sample_count(given.latents.shape[1], DECODED_TOGETHER, config.temporal_levels)
    mine = decoded(given, model, recipe.backend, recipe.dtype, recipe.tiling, mesh)
    others = [chain.from_iterable(decoded(given, model, name, recipe.dtype, recipe.tiling)) for name in compared]
    with counting(console, f"decode, {', '.join((recipe.backend, *compared))}", total) as on:
        for chunk in mine:
            for other, lines in zip(others, compared.values(), strict=True):
                # A stream on a mesh gives several frame batches at a time.
                lines += [{"frame": len(lines) + place, **apart(frame, next(other))}
                          for place, frame in enumerate(chunk)]  # fmt: skip
            yield as_bytes(chunk)
            on(len(chunk))


def apart(frame: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """How far two frames are from each other, and how many of their 8-bit values differ, by how much at most."""
    wide = np.abs(frame.astype(np.float64) - other.astype(np.float64))
    levels = np.abs(as_bytes(frame).astype(int) - as_bytes(other).astype(int))
    return {
        "largest": float(wide.max()),
        "mean": float(wide.mean()),
        "values that differ": int((levels > 0).sum()),
        "levels": int(levels.max()),
    }


def _show(console: Console, backend: str, compared: dict[str, list[Any]]) -> None:
    table = Table("against", "largest difference", "mean", "of 8 bits: values", "levels", "in frame",
                  title=f"{backend}, frame by frame")  # fmt: skip
    for name, lines in compared.items():
        worst = max(lines, key=lambda line: line["largest"])
        table.add_row(
            name, f"{worst['largest']:.2e}", f"{np.mean([line['mean'] for line in lines]):.2e}",
            str(sum(line["values that differ"] for line in lines)), str(max(line["levels"] for line in lines)),
            str(worst["frame"]),
        )  # fmt: skip
    console.print(table)
