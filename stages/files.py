"""The files between stages: tensors and what they were made of, written whole or not at all, and checked when read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import uuid4

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

SCHEMA = 1
KEY = "twinvae"  # of safetensors' metadata
PACKAGES = ("diffusers", "flax", "jax", "jaxlib", "numpy", "torch", "torchax", "transformers", "twinvae")
Layout = Literal["btchw", "bcthw", "bthwc"]  # of latents: batch, time, channel, height, width
Digests = dict[str, str]  # of files, by what they are
TEXT, LATENTS, STEPS, VIDEO, DECODED = (
    "text.safetensors", "latents.safetensors", "steps.safetensors", "video.mp4", "decode.json",
)  # fmt: skip


class _Fields(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Text(_Fields):
    """What prompts are encoded with.

    Attributes:
        model: the folder's name, for people.
        parts: digests of the model's parts that are read.
        tokens: that a prompt is padded or cut to.
    """

    stage: Literal["text"] = "text"
    model: str
    parts: Digests
    prompt: str
    negative_prompt: str
    tokens: int
    dtype: str


class Denoise(_Fields):
    """What latents are denoised with.

    Attributes:
        vae_config: digest of the config of the VAE that the latents are for.
        text: of the text that it reads, whose digest is `inputs["text"]`.
        noise: where it is drawn, "torch" (as diffusers' pipelines do) or "jax".
        strength: how much of the steps a video to start from leaves to do; 1 without one.
    """

    stage: Literal["denoise"] = "denoise"
    model: str
    parts: Digests
    vae_config: str
    inputs: Digests
    text: Text
    frames: int
    height: int
    width: int
    steps: int
    guidance: float
    dynamic_guidance: bool
    scheduler: str
    seed: int
    noise: str
    dtype: str
    strength: float = 1.0


class Decode(_Fields):
    """What a video is decoded with."""

    stage: Literal["decode"] = "decode"
    model: str
    parts: Digests
    inputs: Digests
    layout: Layout
    scaled: bool
    drop: int
    backend: str
    compare: tuple[str, ...]
    dtype: str
    tiling: bool
    fps: int


Recipe = Annotated[Text | Denoise | Decode, Field(discriminator="stage")]


class Latents(_Fields):
    """What latents are: decoding asks for nothing else.

    Attributes:
        scaled: multiplied by the VAE's scaling factor, as transformers take and give them.
        drop: how many at the front are no part of the clip (CogVideoX1.5 fills up to whole patches in time).
        fps: frames in a second of the video.
        steps: how many denoising steps are done.
    """

    layout: Layout
    scaled: bool
    drop: int = 0
    fps: int
    steps: int


class Made(_Fields):
    """What is known of a file: its recipe, what it holds, and which versions made it.

    Attributes:
        content: digest of its tensors (of a video: of its bytes), of `recipe` and of `latents`. It stays the same when
            the same is made again.
        facts: what came of it, for people.
    """

    schema_version: Literal[1] = SCHEMA
    recipe: Recipe
    latents: Latents | None = None
    content: str
    versions: Digests
    date: str
    facts: dict[str, Any] = {}


Tensors = Mapping[str, np.ndarray]


def differences(made: BaseModel, wanted: BaseModel) -> list[str]:
    """What is not the same of two recipes, a line each: `steps was 20 and is 50`."""
    before, now = (_flat(one.model_dump(exclude={"model"})) for one in (made, wanted))
    return [f"{name} was {_short(before.get(name))} and is {_short(now.get(name))}"
            for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]  # fmt: skip


def _flat(fields: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        flat |= _flat(value, f"{above}{name} ") if isinstance(value, dict) else {f"{above}{name}": value}
    flat.pop(f"{above}model", None)
    return flat


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# Writing


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place beside a file to write it to: it takes its name once it is complete, and is gone after an error.

    Raises:
        OSError: it cannot be written; the message says why and what to do.
    """
    beside = path.with_name(f".{uuid4().hex}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        if error.errno is None:
            raise
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        cure = "make room on that disk" if full else "choose a folder to write to"
        raise OSError(
            error.errno, f"cannot write {path} ({os.strerror(error.errno)}): {cure}; what was there before is as it was"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def write(
    path: Path, tensors: Tensors, recipe: Recipe, latents: Latents | None = None, facts: Mapping[str, Any] | None = None
) -> Made:
    """Write tensors with what they are of; an error leaves what was there before.

    Raises:
        OSError: it cannot be written.
    """
    # safetensors writes the memory behind an array: it has to lie in the order of the shape.
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    made = describe(digest_of(tensors), recipe, latents, facts)
    plain = {} if latents is None else {"layout": latents.layout, "scaled": str(latents.scaled).lower()}
    content = save(tensors, {KEY: made.model_dump_json(), **plain})
    with whole(path) as beside:
        beside.write_bytes(content)
    return made


def describe(
    content: str, recipe: Recipe, latents: Latents | None = None, facts: Mapping[str, Any] | None = None
) -> Made:
    """What is known of a file whose tensors or bytes have this digest."""
    return Made(
        recipe=recipe, latents=latents, content=_sealed(content, recipe, latents), facts=dict(facts or {}),
        versions=_versions(), date=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def _sealed(content: str, recipe: BaseModel, latents: Latents | None) -> str:
    fields = recipe.model_dump_json() + (latents.model_dump_json() if latents else "")
    return hashlib.sha256(f"{content}{fields}".encode()).hexdigest()[:32]


def digest_of(tensors: Tensors) -> str:
    """A digest of tensors: names, shapes, dtypes and every byte."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}{tensor.shape}{tensor.dtype}".encode())
        digest.update(tensor.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()[:32]


def digest_of_files(paths: list[Path]) -> str:
    """A digest of files, names and every byte."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _versions() -> Digests:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


# Reading


def read(path: Path, stage: str) -> tuple[dict[str, np.ndarray], Made]:
    """Read what `write` has written.

    Args:
        stage: the command that makes such a file.
    Raises:
        FileNotFoundError: no such file.
        OSError: it is cut short.
        ValueError: it is of another schema, of another stage, or was edited.
    """
    tensors, metadata = read_any(path, f"`twinvae {stage}` makes it")
    again = f"make it again with `twinvae {stage}`"
    if KEY not in metadata:
        raise ValueError(f"{path} was not made by `twinvae {stage}`: its metadata has no {KEY!r}; {again}")
    made = parse(metadata[KEY], path, again)
    if made.recipe.stage != stage:
        raise ValueError(f"{path} was made by `twinvae {made.recipe.stage}`, expected `twinvae {stage}`: {again}")
    if made.content != _sealed(digest_of(tensors), made.recipe, made.latents):
        raise ValueError(f"{path} was edited: its tensors or settings are not those that it was written with; {again}")
    return tensors, made


def parse(text: str, path: Path, again: str) -> Made:
    """What a file says of itself.

    Raises:
        ValueError: it is of another schema, or says something that it cannot.
    """
    try:
        return Made.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "metadata"
        if where == "schema_version":
            raise ValueError(
                f"{path} has schema version {first['input']!r}, and this twinvae reads {SCHEMA}: {again}, or use the "
                "twinvae that wrote it"
            ) from None
        raise ValueError(f"{path}: {where}: {first['msg']} (found {first['input']!r:.80}); {again}") from None


def read_any(path: Path, cure: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors and the metadata of a safetensors file of anyone's.

    Raises:
        FileNotFoundError: no such file.
        OSError: it is cut short, or no safetensors file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} not found: {cure}")
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise OSError(f"{path} is no whole safetensors file ({error}): {cure}") from None


def same(made: Made, content: str) -> bool:
    """Whether a file's tensors or bytes, by their digest, are those that are told of it."""
    return made.content == _sealed(content, made.recipe, made.latents)


def reason(path: Path, stage: str, wanted: BaseModel) -> str:
    """Why a stage has to make its file; "" where the file is there, whole, and of the same inputs and settings."""
    if not path.exists():
        return "it is not there yet"
    try:
        _, made = read(path, stage)
    except (OSError, ValueError) as error:
        return str(error)
    return "; ".join(differences(made.recipe, wanted))
