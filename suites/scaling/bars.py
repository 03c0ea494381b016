"""The bars of scaling: peaks of a device, what it is sent, compile time, and how much faster many chips are."""

from __future__ import annotations

from twinvae.bench.bars import SHOWN_ONLY, Bar, Held, because

PEAK, SENT, OVER_HALOS, OTHERS = "peak", "sent in a round", "sent over the halos", "other collectives"
COMPILING = "compile time over one device's"
SPEED_UP, HIDDEN = "modelled speed-up", "modelled speed-up, sending hidden"
SHARE, IN_TIME = "over what the first batch allows", "in time alone, over what the first batch allows"

EXACT = "The compiler's own word: of one program the same on every run. 2 % is room for other versions, not measured."
LIMITS = {"rows on 4": 5, "time on 2, rows on 4": 5, "time on 8": 33.55}
PROGRAM = because(
    EXACT,
    **{PEAK: Bar(None, 1.02, unit="GB"), SENT: Bar(None, 1.02, unit="MB")},
) | because(
    "Counted in the compiled program: permutations and sums of norms are all that there is; one gather sends a frame "
    "where two frames or a row would do.",
    **{OTHERS: Bar(0)},
)
PEAKS = {
    case: because(
        EXACT, **{PEAK: Bar(limit, 1.02, unit="GB", why="A limit: one chip takes 20 GB, and a v6e has 33.55.")}
    )
    for case, limit in LIMITS.items()
}
ALL_ROUNDS = because(
    "1 where a device in time receives what the conv cache of one device holds, and nothing else.",
    **{OVER_HALOS: Bar(1.05, 1.0, unit="x")},
)
COMPILED = because(
    "Times of processors, of programs compiled one after the other; other work does not change them much.",
    **{COMPILING: Bar(1.5, SHOWN_ONLY, unit="x")},
)
MODELLED = because(
    "Computed from what compilers say and from published rates: it changes with a program alone. 2 % is room for other "
    "versions.",
    **{
        SHARE: Bar(0.85, 1.02, better="higher", unit="x", why="The limit is what was asked for."),
        IN_TIME: Bar(None, 1.02, better="higher", unit="x"),
        SPEED_UP: Bar(None, 1.02, better="higher", unit="x"),
        HIDDEN: Bar(None, 1.02, better="higher", unit="x"),
    },
)

BARS = (
    *(Held(f"{case}, v6e", bars, {"case": case}) for case, bars in PEAKS.items()),
    Held("programs on meshes", PROGRAM),
    Held("what devices in time are sent", ALL_ROUNDS),
    Held("compile time", COMPILED),
    Held("many chips over one", MODELLED),
)
