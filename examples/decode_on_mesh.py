"""Decode latents on a mesh of devices, of one host or of several: the same command on each.

    python -m examples.decode_on_mesh latents.npy video.npy --mesh clips=1,time=5,rows=2 --weights THUDM/CogVideoX-2b

On a TPU pod and under SLURM, JAX finds the other hosts by itself (--hosts); elsewhere name the first one and how many
there are: --coordinator 10.0.0.1:1234 --processes 2 --process 0. See docs/devices.md.
"""

from __future__ import annotations

import argparse

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather

import twinvae

DEAD_AFTER = 30  # seconds without a word of a host, after which the others end and say which


def mesh_sizes(text: str) -> dict[str, int]:
    """`clips=1,time=5,rows=2` as arguments of `twinvae.make_mesh`."""
    return {name: int(count) for name, _, count in (part.partition("=") for part in text.split(","))}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("latents", help="an .npy of [batch, time, height, width, channel] that every host can read")
    parser.add_argument("video", help="the .npy that the first host writes")
    parser.add_argument("--mesh", type=mesh_sizes, required=True, help="clips=1,time=5,rows=2")
    parser.add_argument("--weights", help="a diffusers folder or hub id; left out: seeded weights of the tiny preset")
    parser.add_argument("--subfolder", help="the VAE's folder inside")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--hosts", action="store_true", help="of several hosts that JAX finds: a TPU pod, SLURM")
    parser.add_argument("--coordinator", help="the first host's address and a port, where JAX cannot find the others")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int, help="this one's number, from 0")
    parser.add_argument(
        "--dead-after", type=int, default=DEAD_AFTER, metavar="SECONDS", help="without a word of a host"
    )
    given = parser.parse_args(arguments)
    if given.hosts or given.coordinator:
        jax.distributed.initialize(
            given.coordinator, given.processes, given.process, heartbeat_timeout_seconds=given.dead_after
        )

    mesh = twinvae.make_mesh(**given.mesh)
    vae = twinvae.load("flax", weights=given.weights, subfolder=given.subfolder, dtype=given.dtype, mesh=mesh)
    video = vae.decode(np.load(given.latents, mmap_mode="r"))

    whole = np.asarray(process_allgather(video, tiled=True), np.float32 if given.dtype == "bfloat16" else None)
    if jax.process_index() == 0:
        np.save(given.video, whole)
        print(f"{given.video}: {list(whole.shape)} of {len(mesh.devices.flat)} devices, {jax.process_count()} hosts")


if __name__ == "__main__":
    main()
