"""XLA's CPU compiler ends the process with a segmentation fault where Linux has no more memory mappings for it.

JAX alone, on Linux: `python xla_out_of_mappings.py`. Every kernel of a program takes three mappings, of the 65,530
that a process may have by default (vm.max_map_count), and keeps them for as long as the program is held.
"""

import mmap
from pathlib import Path

import jax
import jax.numpy as jnp

KERNELS, LEFT = 100, 1000


def mappings() -> int:
    return Path("/proc/self/maps").read_bytes().count(b"\n")


def compiled(number: int) -> jax.stages.Compiled:
    def run(x: jax.Array) -> jax.Array:
        for step in range(KERNELS):
            x = jax.lax.optimization_barrier(x * (number * KERNELS + step))  # a kernel each: nothing to fuse them with
        return x

    return jax.jit(run).lower(jnp.ones(8)).compile()


limit = int(Path("/proc/sys/vm/max_map_count").read_text())
print(f"jaxlib {jax.lib.__version__}, vm.max_map_count {limit:,}")
before = mappings()
programs = [compiled(0)]
print(f"a program of {KERNELS} kernels takes {mappings() - before} mappings")

# What many programs would take, taken at once.
held = [mmap.mmap(-1, mmap.PAGESIZE) for _ in range(limit - mappings() - LEFT)]
for number in range(1, 100):
    programs.append(compiled(number))
    print(f"{len(programs)} programs, {limit - mappings()} mappings left", flush=True)
