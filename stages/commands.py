"""The commands `twinvae text`, `denoise`, `decode`, `run`: each loads what it needs alone, as torch takes seconds."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from stages.files import STEPS
from stages.model import GUIDANCE, Model
from stages.model import STEPS as USUAL_STEPS
from stages.telling import say

INTERRUPTED = 130  # of a shell

Dir = Annotated[Path, typer.Option("--dir", metavar="DIR", help="of this video: what stages read and write")]
ModelDir = Annotated[
    Path,
    typer.Option(
        "--model", metavar="DIR",
        help="a local folder as diffusers' pipelines save it: tokenizer, text_encoder, transformer, scheduler, vae; a "
        "stage asks for its own parts",
    ),
]  # fmt: skip
Prompt = Annotated[str, typer.Option(help="what the video is to show")]
Negative = Annotated[str, typer.Option("--negative-prompt", help="what guidance is to lead away from")]
Tokens = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="that a prompt is filled up or cut to (default: the model's)")
]
TextDtype = Annotated[
    str | None, typer.Option(metavar="NAME", help="of T5 (default: float32 on a CPU, bfloat16 elsewhere)")
]
Frames = Annotated[int | None, typer.Option(metavar="N", help="default: the model's")]
Height = Annotated[int | None, typer.Option(metavar="N", help="in pixels (default: the model's)")]
Width = Annotated[int | None, typer.Option(metavar="N", help="in pixels (default: the model's)")]
Steps = Annotated[int, typer.Option(metavar="N", min=1, help="of denoising")]
Guidance = Annotated[float, typer.Option(metavar="X", help="how far it leads; 1 and less: none, in half the time")]
Dynamic = Annotated[bool, typer.Option("--dynamic-guidance", help="as diffusers' use_dynamic_cfg")]
Scheduler = Annotated[str | None, typer.Option(metavar="NAME", help="ddim or dpm (default: the model's)")]
Seed = Annotated[int, typer.Option(metavar="N", min=0, help="of all noise")]
Noise = Annotated[
    str, typer.Option(metavar="NAME", help="torch: what diffusers draws from this seed; jax: drawn on the device")
]
Dtype = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="of weights and activations (default: float32 on a CPU, bfloat16 elsewhere)"),
]
Image = Annotated[Path | None, typer.Option(metavar="FILE", help="a picture to start from, of models that take one")]
Video = Annotated[Path | None, typer.Option(metavar="FILE", help="a video to start from")]
Strength = Annotated[float, typer.Option(metavar="X", help="how much of the steps is done on --video, 0 to 1")]
SaveEvery = Annotated[int, typer.Option(metavar="N", min=1, help="steps between two times that the state is kept")]
Mesh = Annotated[
    str | None, typer.Option("--mesh", metavar="AXES", help="of devices for denoising, such as dp=2,sp=1,tp=4")
]
DecodeMesh = Annotated[
    str | None, typer.Option("--decode-mesh", metavar="AXES", help="of devices for decoding, such as time=4,rows=2")
]
OwnMesh = Annotated[
    str | None, typer.Option("--mesh", "--decode-mesh", metavar="AXES", help="of devices, such as time=4,rows=2")
]
LatentsFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="safetensors or .npy of anyone's (default: DIR/latents.safetensors)")
]
Layout = Annotated[
    str | None, typer.Option(metavar="AXES", help="of such latents: btchw (diffusers' pipelines), bcthw or bthwc")
]
Scaled = Annotated[
    bool | None,
    typer.Option("--scaled/--raw", help="such latents are multiplied by the scaling factor, as diffusers' are, or not"),
]
Drop = Annotated[
    int | None, typer.Option(metavar="N", min=0, help="such latents to leave out at the front (CogVideoX1.5's extra)")
]
Fps = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="frames a second (default: 16 of CogVideoX1.5, 8 before)")
]
Backend = Annotated[str, typer.Option(metavar="NAME", help="of the VAE: flax, torchax or torch")]
Compare = Annotated[
    str, typer.Option(metavar="NAMES", help="other backends, held against it frame by frame, such as torch,torchax")
]
Tiling = Annotated[bool, typer.Option("--tiling", help="decode in diffusers' tiles")]
Cache = Annotated[
    Path | None, typer.Option("--compile-cache", metavar="DIR", help="of compiled programs (default: the user's)")
]
NoCache = Annotated[bool, typer.Option("--no-compile-cache", help="compile anew, and keep nothing")]


def kept_programs(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that keeps what it compiles, gives stages a console, and ends well when it is interrupted."""

    @functools.wraps(command)
    def run(*, compile_cache: Path | None, no_compile_cache: bool, **given: Any) -> None:
        console = Console()
        try:
            with _cache(compile_cache, no_compile_cache):
                command(console=console, **given)
        except KeyboardInterrupt:
            say(console, f"stopped; nothing is lost ({STEPS} has the steps that are done): the same command goes on")
            raise typer.Exit(INTERRUPTED) from None

    own = inspect.signature(command, eval_str=True).parameters
    keyword = inspect.Parameter.KEYWORD_ONLY
    run.__signature__ = inspect.Signature([  # type: ignore[attr-defined]
        *(parameter.replace(kind=keyword) for name, parameter in own.items() if name != "console"),
        inspect.Parameter("compile_cache", keyword, annotation=Cache, default=None),
        inspect.Parameter("no_compile_cache", keyword, annotation=NoCache, default=False),
    ])  # fmt: skip
    return run


@contextmanager
def _cache(folder: Path | None, off: bool) -> Iterator[None]:
    from twinvae.jax.kept import default_folder, keeping, machine

    with keeping(None if off else (folder or default_folder()) / machine()):
        yield


def _mesh(axes: str | None, make: Callable[..., Any]) -> Any:
    if not axes:
        return None
    try:
        return make(**{name: int(count) for name, _, count in (part.partition("=") for part in axes.split(","))})
    except TypeError:
        known = ", ".join(name for name in inspect.signature(make).parameters if name != "devices")
        raise ValueError(f"mesh {axes!r}: expected axes of {known}, as in {known.split(', ')[0]}=2") from None


def _token_mesh(axes: str | None) -> Any:
    from twinvae.jax.tokens import make_token_mesh

    return _mesh(axes, make_token_mesh)


def _vae_mesh(axes: str | None) -> Any:
    from twinvae.jax.mesh import make_mesh

    return _mesh(axes, make_mesh)


@kept_programs
def text(
    dir: Dir, model: ModelDir, prompt: Prompt, negative_prompt: Negative = "", tokens: Tokens = None,
    dtype: TextDtype = None, console: Any = None,
) -> None:  # fmt: skip
    """Encode a prompt with T5, on JAX: DIR/text.safetensors."""
    from stages.text import text as encode_text

    encode_text(dir, Model(model), prompt, negative_prompt, tokens=tokens, dtype=dtype, console=console)


@kept_programs
def denoise(
    dir: Dir, model: ModelDir, frames: Frames = None, height: Height = None, width: Width = None,
    steps: Steps = USUAL_STEPS, guidance: Guidance = GUIDANCE, dynamic_guidance: Dynamic = False,
    scheduler: Scheduler = None, seed: Seed = 0, noise: Noise = "torch", dtype: Dtype = None, image: Image = None,
    video: Video = None, strength: Strength = 0.8, save_every: SaveEvery = 1, mesh: Mesh = None, console: Any = None,
) -> None:  # fmt: skip
    """Denoise latents for DIR/text.safetensors, on JAX: DIR/latents.safetensors. Goes on where it was stopped."""
    from stages.denoise import Settings
    from stages.denoise import denoise as denoise_text

    settings = Settings(frames, height, width, steps, guidance, dynamic_guidance, scheduler, seed, noise, dtype, image,
                        video, strength)  # fmt: skip
    denoise_text(dir, Model(model), settings, save_every=save_every, mesh=_token_mesh(mesh), console=console)


@kept_programs
def decode(
    dir: Dir, model: ModelDir, latents: LatentsFile = None, layout: Layout = None, scaled: Scaled = None,
    drop: Drop = None, fps: Fps = None, backend: Backend = "flax", compare: Compare = "", dtype: Dtype = None,
    tiling: Tiling = False, decode_mesh: OwnMesh = None, console: Any = None,
) -> None:  # fmt: skip
    """Decode latents, DIR/latents.safetensors or anyone's, with any backend: DIR/video.mp4 and DIR/decode.json."""
    from stages.decode import decode as decode_latents

    decode_latents(
        dir, Model(model), latents=latents, layout=layout, scaled=scaled, drop=drop, fps=fps, backend=backend,
        compare=_names(compare), dtype=dtype, tiling=tiling, mesh=_vae_mesh(decode_mesh), console=console,
    )  # fmt: skip


@kept_programs
def run(
    dir: Dir, model: ModelDir, prompt: Prompt, negative_prompt: Negative = "", tokens: Tokens = None,
    frames: Frames = None, height: Height = None, width: Width = None, steps: Steps = USUAL_STEPS,
    guidance: Guidance = GUIDANCE, dynamic_guidance: Dynamic = False, scheduler: Scheduler = None, seed: Seed = 0,
    noise: Noise = "torch", dtype: Dtype = None, image: Image = None, video: Video = None, strength: Strength = 0.8,
    save_every: SaveEvery = 1, mesh: Mesh = None, fps: Fps = None, backend: Backend = "flax", compare: Compare = "",
    tiling: Tiling = False, decode_mesh: DecodeMesh = None, console: Any = None,
) -> None:  # fmt: skip
    """A prompt to a video: text, denoise and decode, each only where its inputs or settings are others than before."""
    from stages.decode import decode as decode_latents
    from stages.denoise import Settings
    from stages.denoise import denoise as denoise_text
    from stages.text import text as encode_text

    pipeline = Model(model)
    settings = Settings(frames, height, width, steps, guidance, dynamic_guidance, scheduler, seed, noise, dtype, image,
                        video, strength)  # fmt: skip
    encode_text(dir, pipeline, prompt, negative_prompt, tokens=tokens, dtype=dtype, console=console)
    denoise_text(dir, pipeline, settings, save_every=save_every, mesh=_token_mesh(mesh), console=console)
    decode_latents(
        dir, pipeline, fps=fps, backend=backend, compare=_names(compare), dtype=dtype, tiling=tiling,
        mesh=_vae_mesh(decode_mesh), console=console,
    )  # fmt: skip


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
