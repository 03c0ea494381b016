"""JAX's plug-in for NVIDIA's cards, which holds their compiler: which cards it compiles for where there is none."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import topologies

from twinvae.jax.chips import GPUS

PLUGIN = "jax-cuda13-pjrt"
INSTALL = "the GPU compiler is not installed: pip install -c constraints.txt '.[gpu-aot]'"
CARDS = Path(__file__).with_name("cards")
# Where a driver shows its cards: on Linux, in containers, and under Windows.
DRIVERS = ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg")
# What the plug-in asks CUDA's own libraries for before it is loaded; a compiler alone has none, and it would say so at
# length on stderr.
UNCHECKED = "JAX_SKIP_CUDA_CONSTRAINTS_CHECK"


def installed() -> str:
    """The version of the plug-in, empty where it is not installed."""
    try:
        return version(PLUGIN)
    except PackageNotFoundError:
        return ""


def missing() -> str:
    """Why nothing is compiled for cards here, and the line that mends it; empty where something is."""
    if not installed():
        return INSTALL
    if installed() != jax.__version__:
        return (
            f"{PLUGIN} {installed()} is installed beside jax {jax.__version__}, and they go together only where their "
            f"versions are the same: pip install --no-deps {PLUGIN}=={jax.__version__} "
            f"{PLUGIN.replace('pjrt', 'plugin')}=={jax.__version__}"
        )
    return ""


def expect_no_gpu() -> None:
    """Tell the plug-in, before JAX loads it, that this machine has no card, unless it has one."""
    if not any(map(os.path.exists, DRIVERS)):
        os.environ.setdefault(UNCHECKED, "1")


def description(card: str) -> str:
    """A card as XLA knows it, in protobuf's text format, without remarks."""
    return "".join(line for line in _written(card) if not line.startswith("#"))


def origin(card: str) -> str:
    """Where a card's description comes from, in words."""
    return _written(card)[0].removeprefix("# ").rstrip(".\n")


def device(card: str) -> Any:
    """A card, to lower programs for (see `devices`)."""
    return devices(card)[0]


@cache
def devices(card: str, count: int = 1) -> tuple[Any, ...]:
    """Cards of one host, to lower programs for.

    Raises:
        RuntimeError: there is no plug-in, or one for another JAX; the message says what to do.
    """
    if reason := missing():
        raise RuntimeError(reason)
    expect_no_gpu()
    found = topologies.get_topology_desc(platform="cuda", target_config=description(card), topology=f"1x1x{count}")
    return tuple(found.devices)


def save(card: str, folder: Path = CARDS) -> Path:
    """Keep the description of this machine's card as that of one in the table.

    Raises:
        ValueError: there is none, or it is another one.
    """
    here, wanted = jax.devices()[0], GPUS[card].device_kind
    if here.device_kind != wanted:
        raise ValueError(
            f"JAX computes on {here.device_kind} here, and {card} is an {wanted}: save it on a machine that has one, "
            "or enter this card in twinvae/jax/chips.py first"
        )
    path = folder / f"{card}.txtpb"
    path.write_text(f"# Read on an {wanted}, jax {jax.__version__}.\n{own_description()}")
    return path


def own_description(sharding: Any = None) -> str:
    """What XLA knows of the default device, or of another one: it writes that beside each program that it dumps."""
    with tempfile.TemporaryDirectory() as folder:
        jax.jit(lambda x: x + 1).lower(jax.ShapeDtypeStruct((1,), "float32", sharding=sharding)).compile(
            compiler_options={"xla_dump_to": folder}
        )
        return next(Path(folder).glob("*.gpu_target_config.pbtxt")).read_text().strip() + "\n"


def _written(card: str) -> list[str]:
    return (CARDS / f"{card}.txtpb").read_text(encoding="utf-8").splitlines(keepends=True)
