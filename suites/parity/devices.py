"""Clips on meshes of 8 virtual CPU devices: rows of settings, and the process of its own that runs them.

`devices.jsonl` is a covering array of `FACTORS` (`python -m suites.parity.devices --draw`), its first rows with every
value at least once; `--all` holds every row against diffusers, and `--splits` those of an array with every split of 8.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import twinvae
from twinvae.bench.collectives import collectives
from twinvae.bench.effort import quick_environment
from twinvae.bench.halves import batched, stream, whole
from twinvae.checkpoint import write_checkpoint
from twinvae.config import DOWN_BLOCK, UP_BLOCK, VAEConfig
from twinvae.frames import frame_batches
from twinvae.registry import REFERENCE
from twinvae.seeded import seeded_tensors
from twinvae.tensors import tensor_shapes

Row = dict[str, Any]
ROWS, DEVICES = Path(__file__).with_name("devices.jsonl"), 8
ROOT = Path(__file__).parents[2]

FACTORS: dict[str, tuple[Any, ...]] = {
    "operation": ("decode", "encode"),
    "mesh": ((1, 2, 1), (1, 2, 2), (2, 2, 2), (1, 1, 3), (1, 8, 1)),  # clips, time, rows
    "frames": (33, 1, 3, 9, 14, 21),  # of video
    "together": (2, 1),  # latents
    "size": ((3, 2), (1, 3), (5, 1), (4, 2)),  # latent cells; a video has a pixel more
    "clips": (1, 2, 3),
}
SPLITS = tuple(split for split in itertools.product((1, 2, 4, 8), repeat=3) if np.prod(split) == DEVICES)
QUICK = 6  # rows that every run takes
HOSTS_TAKE = 240  # seconds at most
DEAD_AFTER = 10  # seconds without a word of a host
ARRAYS = ("output", "streamed", "gradients")  # of what the process says
SETTINGS = ("tiles", "sliced", "slab_bytes")  # of rows beside the covering array


class Told(NamedTuple):
    """What the process says of a row.

    Args:
        output: moments or video.
        again: values of a second call that differ in any bit.
        streamed: the same in chunks, the stream resumed after its first frame batch.
        gradients: of a reconstruction, one after the other; none of rows that do not ask for them.
        sharding: of the output, by axis.
        warned: what it said of idle devices.
        permutes, others: of the first group's program, how many permutations, and other collectives; of rows that are
            `counted`.
        collected: collectives of the program that puts together what that gives.
        bytes: that permutations send.
        cache: bytes of the conv cache, of one device's clips.
    """

    output: np.ndarray
    again: int
    streamed: np.ndarray
    gradients: np.ndarray
    sharding: list[str | None]
    warned: list[str]
    permutes: int
    others: dict[str, int]
    collected: int
    bytes: int
    cache: int


def rows() -> list[Row]:
    return [as_row(json.loads(line)) for line in ROWS.read_text(encoding="utf-8").splitlines()]


def as_row(fields: Row) -> Row:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}


@cache
def config_of(levels: int = 1) -> VAEConfig:
    """The least that has every kind of layer, and halves frames so often."""
    blocks = levels + 1
    return VAEConfig(
        block_out_channels=(2, 4, 2)[:blocks], down_block_types=(DOWN_BLOCK,) * blocks,
        up_block_types=(UP_BLOCK,) * blocks, latent_channels=2, layers_per_block=1, norm_num_groups=2,
        temporal_compression_ratio=2**levels,
    )  # fmt: skip


def clip_of(row: Row) -> np.ndarray:
    config, decode = config_of(row.get("levels", 1)), row["operation"] == "decode"
    ratio = 2**config.temporal_levels
    frames = -(-row["frames"] // ratio) if decode else row["frames"]
    sides = row["size"] if decode else tuple(side * config.spatial_compression + 1 for side in row["size"])
    shape = (row["clips"], frames, *sides, config.latent_channels if decode else config.in_channels)
    return np.random.default_rng(frames).uniform(-1, 1, shape)


def together(row: Row) -> int:
    ratio = 1 if row["operation"] == "decode" else 2 ** config_of(row.get("levels", 1)).temporal_levels
    return row["together"] * ratio


def short(row: Row) -> bool:
    """Whether a frame batch is a single latent, so that a halo comes from two devices."""
    latents = clip_of(row).shape[1] if row["operation"] == "decode" else row["frames"] // 2
    return min(row["together"], latents) < 2


def settle(vae: Any, row: Row) -> Any:
    """A VAE with the settings of a row."""
    if row.get("tiles"):
        vae.enable_tiling(*row["tiles"], 0.25, 0.25)
    if row.get("sliced"):
        vae.enable_slicing()
    if row.get("slab_bytes") and vae.backend != REFERENCE:
        vae.forms, vae.slab_bytes = ("row slabs",), row["slab_bytes"]
    return vae


def layers_of(row: Row) -> dict[str, int]:
    """Layers of each kind by their tensors; of a resizing, the rows that it needs of others."""
    decode = row["operation"] == "decode"
    half = "decoder." if decode else "encoder."
    shapes = [(name, shape) for name, shape in tensor_shapes(config_of(row.get("levels", 1))).items()
              if name.startswith(half) and name.endswith(".weight")]  # fmt: skip
    return {
        "causal": sum(len(shape) == 5 and shape[2] == 3 for _, shape in shapes),
        "resizing": sum(len(shape) == 4 for _, shape in shapes) * (2 if decode else 1),
        "norm": sum(len(shape) == 1 for _, shape in shapes),
    }


class Telling:
    """What a process says of rows, by their names; a row that it has not come to yet is waited for."""

    def __init__(self, process: subprocess.Popen, place: Path, names: list[str]) -> None:
        self._process, self._place, self._names = process, place, names
        self._found: dict[str, Told] = {}

    def __getitem__(self, name: str) -> Told:
        if name not in self._found:
            path = self._place / f"{self._names.index(name)}.npz"
            while not path.exists():
                if self._process.poll() is not None and not path.exists():
                    said = (self._place / "said").read_text()[-4000:]
                    raise RuntimeError(f"the process of {name} ended with {self._process.returncode}:\n{said}")
                time.sleep(0.05)
            with np.load(path) as arrays:
                facts = json.loads(arrays["facts"].item())
                self._found[name] = Told(**facts, **{name: arrays[name] for name in ARRAYS})
        return self._found[name]


@contextmanager
def telling(some: dict[str, Row], programs: Path | None = None) -> Iterator[Telling]:
    """A process of its own, which sees the devices, runs rows one after the other.

    Args:
        programs: a folder in which compiled programs are kept.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for levels in {row.get("levels", 1) for row in some.values()}:
            write_checkpoint(place / f"levels{levels}", config_of(levels), seeded_tensors(config_of(levels), 0))
        (place / "rows.json").write_text(json.dumps(list(some.values())))
        command = [sys.executable, "-m", "suites.parity.devices", folder]
        with (place / "said").open("w") as said:
            process = subprocess.Popen(command, env=_environment(DEVICES, programs), cwd=ROOT, stdout=said, stderr=said)
        try:
            yield Telling(process, place, list(some))
        finally:
            process.kill()
            process.wait()


class Hosts(NamedTuple):
    """What came of two processes, of which the second was killed when both had decoded.

    Args:
        video: that the first wrote.
        seconds: that it took from then on to end.
        said: what it printed.
        status: its exit status.
    """

    video: np.ndarray
    seconds: float
    said: str
    status: int


def on_two_hosts(row: Row, folder: Path, programs: Path | None = None) -> Hosts:
    """`examples/decode_on_mesh.py` in two processes on the loopback that have half of the devices each.

    The second alone has the checkpoint.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    write_checkpoint(folder / "vae", config_of(), seeded_tensors(config_of(), 0))
    np.save(folder / "latents.npy", clip_of(row))
    environment = _environment(np.prod(row["mesh"]) // 2, programs)
    mesh = ",".join(f"{name}={count}" for name, count in zip(("clips", "time", "rows"), row["mesh"], strict=True))
    command = [
        sys.executable, "-m", "suites.parity.devices", "--host", folder / "latents.npy", folder / "video.npy", "--mesh",
        mesh, "--dtype", "float64", "--coordinator", address, "--processes", "2", "--dead-after", str(DEAD_AFTER),
    ]  # fmt: skip
    weights = folder / "not-here", folder / "vae"
    pair = [subprocess.Popen([*command, "--weights", where, "--process", str(process)], env=environment, cwd=ROOT,
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for process, where in enumerate(weights)]  # fmt: skip
    try:
        killed = pair[1].communicate(timeout=HOSTS_TAKE)[0]
        began = time.monotonic()
        said = pair[0].communicate(timeout=HOSTS_TAKE)[0]
    finally:
        for process in pair:
            process.kill()
    if pair[1].returncode != -signal.SIGKILL:
        raise RuntimeError(f"two hosts ended with {[process.returncode for process in pair]}:\n{said}\n{killed}")
    return Hosts(np.load(folder / "video.npy"), time.monotonic() - began, said, pair[0].returncode)


def host(arguments: list[str]) -> None:
    """One of the two: decodes, and then is killed, or waits for the other."""
    from jax import process_index
    from jax.experimental.multihost_utils import sync_global_devices

    from examples import decode_on_mesh

    decode_on_mesh.main(arguments)
    if process_index() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    sync_global_devices("the other host is gone")


def _environment(count: int, programs: Path | None) -> dict[str, str]:
    """Of a process with so many devices, which compiles with little effort."""
    kept = {"JAX_COMPILATION_CACHE_DIR": str(programs), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"} if programs else {}  # fmt: skip
    environment = os.environ | quick_environment() | {"JAX_PLATFORMS": "cpu"} | kept
    flags = f"--xla_force_host_platform_device_count={count}"
    return environment | {"XLA_FLAGS": f"{environment.get('XLA_FLAGS', '')} {flags}"}


def load(backend: str, folder: Path, row: Row) -> Any:
    return twinvae.load(backend, weights=str(folder / f"levels{row.get('levels', 1)}"), dtype="float64")


def expected(row: Row, gradients: bool = False) -> np.ndarray:
    """What diffusers gives on PyTorch."""
    with tempfile.TemporaryDirectory() as folder:
        place, config = Path(folder), config_of(row.get("levels", 1))
        write_checkpoint(place / f"levels{row.get('levels', 1)}", config, seeded_tensors(config, 0))
        reference = settle(load(REFERENCE, place, row), row)
        if gradients:
            return gradients_of(reference)
        return whole(reference, row["operation"], clip_of(row), together(row))


def gradients_of(vae: Any) -> np.ndarray:
    """By every tensor and by a video that is encoded and decoded in two frame batches each, one after the other."""
    ratio, draw = 2**vae.config.temporal_levels, np.random.default_rng(0)
    video = draw.uniform(-1, 1, (1, 2 * ratio, 7, 2, vae.config.in_channels))
    cotangent = draw.standard_normal((*video.shape[:2], 6, 2, vae.config.out_channels))
    with batched(vae, "encode", ratio), batched(vae, "decode", 1):
        found = vae.gradients(video, cotangent[:, :2])
    return np.concatenate([np.ravel(found[name]) for name in sorted(found)])


# Inside of the process


def tell(folder: Path) -> None:
    loaded = {}
    for index, fields in enumerate(json.loads((folder / "rows.json").read_text())):
        row = as_row(fields)
        key = tuple(row.get(name) for name in ("mesh", "levels", "backend", *SETTINGS))
        if key not in loaded:
            clips, time, parts = row["mesh"]
            mesh = twinvae.make_mesh(clips=clips, time=time, rows=parts)
            loaded[key] = settle(load(row.get("backend", "flax"), folder, row).on(mesh), row)
        told = told_of(loaded[key], row)
        arrays = {name: told.pop(name) for name in ARRAYS}
        with (folder / "partial").open("wb") as file:
            np.savez(file, facts=json.dumps(told), **arrays)
        os.replace(folder / "partial", folder / f"{index}.npz")


def told_of(vae: Any, row: Row) -> dict[str, Any]:
    import jax

    from twinvae.jax.mesh import deal

    operation, clip = row["operation"], clip_of(row)
    with warnings.catch_warnings(record=True) as caught, batched(vae, operation, together(row)):
        warnings.simplefilter("always")
        call = (lambda: vae.decode(clip)) if operation == "decode" else (lambda: vae.encode(clip).moments)
        out, again = call(), call()
        groups = vae.schedule(operation, clip.shape[1])
        # Stopped after its first frame batch, where other devices have none, and resumed.
        stop = frame_batches(clip.shape[1], together(row))[0].stop if len(groups) > 1 else clip.shape[1]
        begun = stream(vae, operation, clip[:, :stop])
        head, rest = np.asarray(next(begun)), clip[:, stop:]
        chunks = stream(vae, operation, rest, begun.cache) if len(groups) > 1 else []
        streamed = np.concatenate([head, *(np.asarray(chunk) for chunk in chunks)], axis=1)
        first = clip[:, groups[0]].shape
        found, collected = {}, {}
        if row.get("counted"):
            program = vae.lower_step(operation, first, first=True)
            found = collectives(program.compile().as_text())
            group = deal(vae.mesh, vae.config, operation, first, vae.frame_batch_size(operation), starts=True)
            collected = collectives(_collecting(group, program.out_info[0].shape))
        with jax.enable_x64(True):
            alone, clips = vae.on(None), -(-clip.shape[0] // row["mesh"][0])
            shape = jax.ShapeDtypeStruct((clips, together(row), *clip.shape[2:]), np.float64)
            _, kept = jax.eval_shape(lambda params, x: alone.step(operation, params, x, None), alone.params, shape)
    permutes = found.pop("collective-permute", None)
    return {
        "output": np.asarray(out),
        "streamed": streamed,
        "again": int(np.count_nonzero(np.asarray(out).view("u8") != np.asarray(again).view("u8"))),
        "sharding": [None if axis is None else str(axis) for axis in (*out.sharding.spec, *[None] * 5)[:5]],
        "warned": sorted({str(warning.message) for warning in caught}),
        "permutes": permutes.count if permutes else 0,
        "others": {kind: one.count for kind, one in found.items()},
        "collected": sum(one.count for one in collected.values()),
        "gradients": gradients_of(vae) if row.get("gradients") else np.zeros(0),
        "bytes": permutes.bytes if permutes else 0,
        "cache": sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept)),
    }


# The rows


def _collecting(group: Any, shape: tuple[int, ...]) -> str:
    """The compiled program that puts together what a group of frame batches gives."""
    import jax

    from twinvae.jax.mesh import result_sharding

    with jax.enable_x64(True):
        given = jax.ShapeDtypeStruct(shape, np.float64, sharding=group.sharding)
        wanted = result_sharding(group.mesh, jax.eval_shape(group.collected, given).shape)
        return jax.jit(group.collected, out_shardings=wanted).lower(given).compile().as_text()


def drawn(factors: dict[str, tuple[Any, ...]]) -> list[Row]:
    """Rows that hold every pair of values."""
    from covertable import make

    return [as_row(dict(row)) for row in make({name: list(values) for name, values in factors.items()}, strength=2)]


def draw() -> None:
    """Rows that hold every pair of values, the first ones every value."""
    found = drawn(FACTORS)
    missing, ordered = {(name, value) for name in FACTORS for value in FACTORS[name]}, []
    while missing:
        ordered.append(max(found, key=lambda row: len(missing & set(row.items()))))
        missing -= set(ordered[-1].items())
        found.remove(ordered[-1])
    ROWS.write_text("".join(f"{json.dumps({name: row[name] for name in FACTORS})}\n" for row in [*ordered, *found]))
    print(f"{len(ordered)} rows hold every value, {len(ordered) + len(found)} every pair")


def main(argument: str) -> None:
    if argument == "--draw":
        draw()
    elif argument == "--host":
        host(sys.argv[2:])
    elif argument in ("--all", "--splits"):
        every = rows() if argument == "--all" else drawn(FACTORS | {"mesh": SPLITS})
        some = {str(number): row for number, row in enumerate(every, 1)}
        with telling(some) as told:
            for name, row in some.items():
                want, said = expected(row), told[name]
                apart = [np.abs(found - want).max() for found in (said.output, said.streamed)]
                print(row, *apart, said.again, flush=True)
    else:
        tell(Path(argument))


if __name__ == "__main__":
    main(sys.argv[1])
