"""A run of the suites on a mesh: how it is asked for, and its devices, of this process or of several."""

from __future__ import annotations

import re
from math import prod
from typing import Any, NamedTuple

import jax

import twinvae
from twinvae.jax.shards import AXES

HOST = re.compile(r"(\d+)/(\d+)@(\S+:\d+)")


class Asked(NamedTuple):
    """What a run is asked to put backends on.

    Args:
        counts: devices along each axis.
        hosts: processes that run the same tests, each with as many of the devices.
        host: which of them this is; the first writes the page.
    """

    counts: dict[str, int]
    hosts: int = 1
    host: int = 0

    @property
    def label(self) -> str:
        """What stands behind the name of a platform."""
        return f"-mesh-{'x'.join(str(self.counts.get(axis, 1)) for axis in AXES)}"

    def put(self, vae: twinvae.VideoVAE) -> twinvae.VideoVAE:
        """A VAE on the mesh; of several hosts, each is given results in full."""
        on = vae.on(twinvae.make_mesh(**self.counts))  # type: ignore[attr-defined]
        on.gathered = self.hosts > 1
        return on


def asked(mesh: str | None, host: str | None) -> Asked | None:
    """What `--mesh clips=1,time=2,rows=2` and `--host 0/2@localhost:1234` ask for, with its devices there.

    On a CPU they are virtual ones.

    Raises:
        ValueError: axes or counts that are none, a host of another number, devices that do not divide by hosts, or a
            JAX that has begun already.
    """
    if mesh is None:
        if host is not None:
            raise ValueError(f"--host {host} belongs to --mesh, which is not given")
        return None
    parts = [part.partition("=") for part in mesh.split(",")]
    if any(axis not in AXES or not count.isdecimal() or int(count) < 1 for axis, _, count in parts):
        raise ValueError(f"--mesh {mesh}: expected counts of {', '.join(AXES)}, such as time=2,rows=2")
    found = Asked({axis: int(count) for axis, _, count in parts})
    devices = prod(found.counts.values())
    if host is not None:
        named = HOST.fullmatch(host)
        if named is None or int(named[1]) >= int(named[2]):
            raise ValueError(f"--host {host}: expected this one's number, how many, and the first one's address, such "
                             "as 0/2@localhost:1234")  # fmt: skip
        found = found._replace(host=int(named[1]), hosts=int(named[2]))
        if devices % found.hosts:
            raise ValueError(f"--mesh {mesh}: {devices} devices do not divide by {found.hosts} hosts")
    settings: Any = jax.config
    try:
        settings.update("jax_num_cpu_devices", devices // found.hosts)
    except RuntimeError as error:
        raise ValueError(f"--mesh {mesh}: {error}") from None
    if host is not None and named is not None:
        jax.distributed.initialize(named[3], found.hosts, found.host)
    return found
