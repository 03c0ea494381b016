"""The bars of tiling: diffusers' tiled numbers, blends, seams, programs, and the time that tiling costs."""

from __future__ import annotations

from twinvae.bench.bars import ROUNDING, WHOLE, Bar, Held, because

TILED: dict[str, dict[str, Bar]] = {dtype: {"max_abs": bars["max_abs"]} for dtype, bars in WHOLE.items()}
OFF = because(
    "Rows and columns are counted, and what diffusers' rounding leaves of a frame is part of the function.",
    **{"rows and columns off": Bar(better="equal")},
)
BLEND = because(
    "Two products and a sum of normal numbers in float64 round to at most 8.9e-16. Weights in float32 are off by 6e-8 "
    "of a cell, and an extent or a weight that is one cell off by a share of one over the extent, 0.02 and more.",
    max_abs=Bar(1e-14, ROUNDING, 1e-15),
)
SEAMS = because(
    "Tiled against untiled is no error: the network sees a tile alone. The bars of likeness keep it as it was, which "
    "it is to three digits on two kinds of processor.",
    **{
        "step across seams": Bar(
            1.2, 1.05, 1.05, unit="x", why="1 where a seam shows no more than any other place. Blended tiles give 0.95 "
            "to 1.02, tiles that are not blended 2.19; 1.2 is nearer to what is right.",
        ),
        "mae": Bar(None, 1.02),
        "max_abs": Bar(None, 1.1),
        "psnr": Bar(None, 1.02, better="higher", unit="dB"),
        "ssim": Bar(None, 1.02, better="higher"),
    },
)  # fmt: skip
UNBLENDED = SEAMS | because(
    "Without an overlap nothing is blended, and the seam shows: 2.19.",
    **{"step across seams": SEAMS["step across seams"]._replace(limit=None, why="")},
)
STEP = "step across seams"
SEEN = because(
    "Of trained weights on a real frame, in tiles without an overlap: 2.25. The figure to reach is 2: a seam shows. "
    "Tiles were chosen: in the model's own, 64x96, it is 1.68 (0.89 with overlaps), which falls short; in 96x160 of "
    "192x320 1.94 (1.00).",
    **{STEP: Bar(2, 1.05, better="higher", unit="x")},
)
UNSEEN = because(
    "The same with diffusers' default overlaps: 1.01, and 1.07 where tiles are half as high. The limit is the figure "
    "to reach.",
    **{STEP: Bar(1.1, 1.05, 1.05, unit="x")},
)
PROGRAMS = because(
    "Programs are counted; the limit is how many tile shapes there are, times lengths of frame batches, and none for "
    "more tiles and frames of the same.",
    **{"programs compiled": Bar(), "programs compiled for more tiles and frames": Bar(0)},
)

TIME, BLENDING = "time over untiled, for each pixel decoded", "share of time spent blending"
OVERLAP_ONLY = "1 where tiling costs no more than its overlap, in pixels decoded twice."
# A tiny network is over before its overhead is: what it takes is held to its baseline alone.
SMALL_COST = because(
    OVERLAP_ONLY + " Two runs on a quiet machine gave 1.13 and 1.13 (Flax), 1.07 and 1.06 (TorchAx); tiles that were "
    "compiled with little effort 2.0 to 2.9.",
    **{TIME: Bar(None, 1.25, unit="x")},
)
BLENDS = because(
    "Blends take 0.8 to 1 % of the time of a tiny network, whose own work is least. Three times that is where blending "
    "would show; what tiles blended op by op take was not measured here (speed counts their programs).",
    **{BLENDING: Bar(None, 1.5, 0.03)},
)
LARGE_COST = {
    backend: because(
        OVERLAP_ONLY + f" A figure to reach, of the full architecture: little more than nothing, which {measured}.",
        **{TIME: Bar(limit, 1.25, unit="x")},
    )
    for backend, limit, measured in (
        (
            "flax",
            1.15,
            "came to 0.91 to 1.09 of small tiles compiled with all effort; of the large ones none is on record",
        ),
        ("other", 1.25, "no record says of others"),
    )
}
LARGE_BLENDS = because(
    "Of the full architecture, whose work is most: no more than blends of a tiny network may take.",
    **{BLENDING: BLENDS[BLENDING]._replace(limit=0.03, why="")},
)

LARGE = "cogvideox.*"
BARS = (
    *(Held(f"tiled results, {dtype}", bars, {"case": "(?!blend of|trained|overlap [0-9]).*", "dtype": dtype})
      for dtype, bars in TILED.items()),
    Held("sizes", OFF),
    Held("a blend alone", BLEND, {"case": "blend of .*"}),
    Held("seams of blended tiles", SEAMS, {"case": r"overlap 0\.\d+"}),
    Held("seams of tiles that do not overlap", UNBLENDED, {"case": "overlap 0"}),
    Held("seams of trained weights, no overlap", SEEN, {"case": "trained, overlap none"}),
    Held("seams of trained weights, default overlap", UNSEEN, {"case": "trained, overlap default"}),
    Held("programs compiled", PROGRAMS),
    Held("cost, of a small network", SMALL_COST | BLENDS, {"preset": f"(?!{LARGE}).*"}),
    *(Held(f"cost, of the full architecture, {backend}", cost | LARGE_BLENDS,
           {"preset": LARGE, "backend": backend if backend == "flax" else "(?!flax).*"})
      for backend, cost in LARGE_COST.items()),
)  # fmt: skip
