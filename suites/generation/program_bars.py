"""The bars of denoising's programs, by the compilers of chips."""

from __future__ import annotations

from suites.generation.cases import ATTENTION as ALONE
from suites.generation.cases import MESH, ONE_CHIP, OTHER_MESHES
from twinvae.bench.bars import Bar, Held, because

PEAK, SENT, PADDED, DEPTH = "peak", "sent a block", "work over what is asked for", "compile time, 42 blocks over 4"
EXACT = "The compiler's own word: of one program the same on every run. 2 % is room for other versions, not measured."

ATTENTION = because(
    EXACT,
    **{PEAK: Bar(3.2, 1.02, unit="GiB", why="A limit: JAX's splash takes 3.2 of a v6e, with the same blocks.")},
) | because(
    "Whole tiles of 128 tokens are computed: 0.35 % more than asked for of 45,106. Whole blocks, as splash has them, "
    "make 9.6 %; the limit is between.",
    **{PADDED: Bar(1.005, 1.0, unit="x")},
)
PEAKS = {
    ONE_CHIP: because(EXACT, **{PEAK: Bar(20, 1.02, unit="GiB", why="A limit: a v6e has 31.25, a toy took 19.7.")}),
    MESH: because(EXACT, **{PEAK: Bar(3, 1.02, unit="GiB", why="A limit: a toy took 2.7.")}),
    **{case: because(EXACT, **{PEAK: Bar(None, 1.02, unit="GiB")}) for case in OTHER_MESHES},
}
COLLECTIVES = {
    MESH: because(
        "Weights of a block are 264 MB, and queries, keys, values and what comes of them 276: no less can be sent. A "
        "hidden state that is gathered whole is 276 more, which a toy did; the limit is near what is needed.",
        **{SENT: Bar(570, 1.02, unit="MB")},
    )
} | {case: because(EXACT, **{SENT: Bar(None, 1.02, unit="MB")}) for case in OTHER_MESHES}
EDGE = "queries of a block that fit"
FITTING = because(
    "The compiler's own word, of blocks that are tried: more than the table takes, so that it has room. Fewer mean "
    "that the kernel holds more in vector memory.",
    **{EDGE: Bar(None, 1.0, better="higher", unit="queries")},
)
FLAT = because(
    "Blocks are one loop: the compiler sees one. Times are of processors, which other work does not "
    "change much; unrolled, they would be ten times apart.",
    **{DEPTH: Bar(1.2, 1.2, unit="x")},
)

PROGRAM_BARS = (
    Held("attention alone", ATTENTION, {"case": ALONE}),
    *(Held(case, bars | COLLECTIVES.get(case, {}), {"case": case}) for case, bars in PEAKS.items()),
    Held("blocks at their edge", FITTING),
    Held("depth", FLAT),
)
