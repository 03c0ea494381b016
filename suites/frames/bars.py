"""The bars of frames: diffusers' numbers for every frame count, and what is counted, which nothing rounds."""

from __future__ import annotations

from twinvae.bench.bars import ROUNDING, WHOLE, Bar, Held, because

OF_DIFFUSERS: dict[str, dict[str, Bar]] = {
    dtype: {metric: bar for metric, bar in bars.items() if metric in ("max_abs", "mae_vs_torch")}
    for dtype, bars in WHOLE.items()
}
CLOSE = because(
    "In float64: one program over all frame batches adds up in another order than a program for each (up to 7.1e-15 "
    "where no order changes). A cache that is not handed on from batch to batch changes every later frame.",
    max_abs=Bar(1e-12, ROUNDING, 1e-13),
)
SAME_BITS = because(
    "A stream runs the very programs that the whole runs, so that not a bit may differ.",
    **{"differing values": Bar(0, better="equal")},
)
REACH = because(
    "Pairs of frames, counted by whether anything changes at all: nothing rounds.",
    **{
        "later frames that reach earlier batches": Bar(0, better="equal"),
        "earlier frames that do not reach on": Bar(0, better="equal"),
    },
)
CACHE = because(
    "Values in the conv cache, counted; the limit is what diffusers' own holds and reads. A cache one frame longer "
    "than its kernel reads holds half as much again.",
    **{"values kept": Bar(unit="values")},
)
PROGRAMS = because(
    "Programs are counted; the limit is how many frame batches of different lengths, first or later, the clips come "
    "down to.",
    programs=Bar(better="equal"),
)
LENGTHS = because(
    "Frame counts are what diffusers' own are (asserted), and are kept so that a change is seen.",
    **{
        metric: Bar(better="equal", unit="frames")
        for metric in ("latents", "frames back", "survives below", "survives above")
    },
)
FLICKER, OFF, EDGES = "flicker", "flicker apart from diffusers'", "flicker at edges of frame batches over elsewhere"
FLICKERS = because(
    "What trained weights make of a real clip, in [-1, 1], and not an error: kept so that a change is seen. Frames "
    "that begin a frame batch flicker 1.13 times as much. Both sides round: 2.7e-8 apart at most; what a fault gives "
    "is another video.",
    **{FLICKER: Bar(None, 1.01), OFF: Bar(1e-5, ROUNDING, 1e-7), EDGES: Bar(None, 1.05, unit="x")},
)

BARS = (
    *(Held(f"every frame count, {dtype}", bars, {"case": r".* at a time|two clips.*", "dtype": dtype})
      for dtype, bars in OF_DIFFUSERS.items()),
    Held("a decode as one program", CLOSE, {"case": "one program"}),
    Held("streams, whole and resumed", SAME_BITS),
    Held("what a frame reaches", REACH),
    Held("conv caches", CACHE),
    Held("programs compiled", PROGRAMS),
    Held("what a clip's length becomes", LENGTHS),
    Held("flicker of trained weights", FLICKERS, {"case": "trained, decoded"}),
)  # fmt: skip
