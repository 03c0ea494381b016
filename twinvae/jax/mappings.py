"""Memory mappings, of which Linux gives a process so many, and XLA's programs for CPUs take three for every kernel."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path

import jax

MAPPED, LIMIT = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
SHARE = 0.5  # of the limit: the programs compiled until the next look have to find room in the rest
EVERY = 16  # programs between two looks: one of slabs takes up to 1,300 mappings under jaxlib 0.12
_since = 0  # programs compiled since the last look


def _count(event: str, duration_secs: float, **_: str | int) -> None:
    global _since
    _since += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(_count)


def make_room(share: float = SHARE) -> bool:
    """Drop JAX's compiled programs if they hold a share, half, of the mappings that this process may have.

    When none is left, XLA's compiler ends the process with a segmentation fault (docs/versions.md). Programs that were
    dropped are compiled again when they are called.

    Returns:
        Whether they were dropped.
    """
    global _since
    if _since < EVERY or not LIMIT.exists():
        return False
    _since = 0
    limit = int(LIMIT.read_text())
    held = MAPPED.read_bytes().count(b"\n")
    if held < share * limit:
        return False
    warnings.warn(
        f"compiled programs hold {held:,} of the {limit:,} memory mappings that Linux gives a process, and XLA ends it "
        "where there are no more: they are dropped, and compiled again when they are called; call with fewer shapes, "
        "or raise vm.max_map_count",
        stacklevel=2,
    )
    jax.clear_caches()
    gc.collect()
    return True
