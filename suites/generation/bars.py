"""The bars of generation: diffusers' own pipelines, and what has to be the same to the bit."""

from __future__ import annotations

from suites.generation.program_bars import PROGRAM_BARS
from twinvae.bench.bars import ROUNDING, SHOWN_ONLY, Bar, Held, because

SECOND = "second start over first"
OVER_DIFFUSERS = "time over diffusers'"
STEPS_ALONE = "steps done again"
LATENTS = {
    "float64": because(
        "Pipelines guide in float32, also where all else is in float64: 4 steps differ by up to 1.8e-6 of latents of "
        "magnitude 8. A guidance of 6.006 for 6 gives 6.9e-4, a second draw of DPM's noise that is left out 3.2.",
        max_abs=Bar(1e-5, ROUNDING, 1e-6),
    ),
    "float32": because(
        "Rounding in 4 steps of a random transformer gives up to 1.4e-5 of latents of magnitude 8. A guidance of 6.006 "
        "for 6 gives 6.9e-4.",
        max_abs=Bar(5e-5, ROUNDING, 1e-5),
    ),
}
IN_BFLOAT16 = because(
    "Three pipelines' latents after 4 steps, all together, over the error of diffusers' own in bfloat16, both against "
    "float64 from the same noise: 0.89 to 1.09 of four seeds, 0.86 to 1.11 of one pipeline. A rounding more, of "
    "guidance, logits or positions, is less than that chance (0.92 to 1.05), and seen where the transformer is held "
    "alone; this is there for what is lost between the parts, such as noise drawn in another dtype (15).",
    mae_vs_torch=Bar(1.25, 1.2, 1.0, unit="x"),
)
FRAMES = because(
    "From a prompt to frames in [0, 1], after 4 steps and a decode in float32: up to 4.2e-6. An 8-bit step is 3.9e-3; "
    "latents scaled twice or not at all, or dropped at the wrong end, give another video.",
    mae=Bar(None, ROUNDING, 1e-6),
    max_abs=Bar(1e-4, ROUNDING, 1e-5),
)
FILES = (
    because(
        "Counted in the video file, and nothing rounds. The limit is what was asked for.",
        **{"frames": Bar(better="equal", unit="frames"), "frames a second": Bar(better="equal")},
    )
    | because(
        "Of diffusers' frames and ours in 8 bits, before they are compressed: what rounding puts on the other side of "
        "a half is apart by one level, 1 of 13824 values. Rounding by truncation changes 27 % of them.",
        **{"levels apart": Bar(1, SHOWN_ONLY), "share of values apart": Bar(1e-3, SHOWN_ONLY)},
    )
    | because(
        "ffmpeg compresses the same frames to the same file: none is lost, doubled or moved on the way there.",
        **{"values apart in the file": Bar(0, better="equal")},
    )
)
TRAINED = because(
    "The trained VAE's latents of a clip, and what is decoded of them after the noise is taken from them again, held "
    "against diffusers' own without noise: 1.1e-5 of rounding. Noise of which one part in 10,000 is left, as much as a "
    "schedule's number that is off in its fourth digit leaves, is 3.5e-4 of it.",
    max_abs=Bar(1e-4, ROUNDING, 1e-5),
    psnr=Bar(None, 1.001, better="higher", unit="dB", why="Against the clip itself: what the VAE alone loses."),
)
SAME_BITS = because(
    "The state is kept bit for bit, and one program does any run of steps. A resume that begins one step off gives "
    "other latents everywhere.",
    **{"differing values": Bar(0, better="equal"), STEPS_ALONE: Bar(0, better="equal")},
)
STARTS = because(
    "The time of a stage with an empty folder of compiled programs, and again with what that left, in one process "
    "after JAX has forgotten its own: 0.15 to 0.24 (denoising) and 0.13 to 0.22 (decoding with Flax). Without the "
    "folder both take as long.",
    **{SECOND: Bar(0.5, SHOWN_ONLY, unit="x")},
)
BESIDE = because(
    "Warm, in turn, the middle of each: 4 steps with guidance of a tiny transformer, of which the most is what a call "
    "costs. It says nothing of large ones, and is only shown.",
    **{OVER_DIFFUSERS: Bar(None, SHOWN_ONLY, unit="x")},
)

BARS = (
    *(Held(f"latents, {dtype}", bars, {"case": "latents, .*", "dtype": dtype}) for dtype, bars in LATENTS.items()),
    Held("latents, bfloat16", IN_BFLOAT16, {"case": "latents, all together"}),
    Held("frames", FRAMES, {"case": "video, .*"}),
    Held("from noise", TRAINED, {"case": "from noise, .*"}),
    Held("video files", FILES, {"case": "file, .*"}),
    Held("killed and gone on", SAME_BITS, {"case": "resumed.*"}),
    Held("beside diffusers", BESIDE, {"case": "denoising beside .*"}),
    Held("second starts", STARTS, {"case": "second start, .*"}),
    *PROGRAM_BARS,
)  # fmt: skip
