"""The bars of training: PyTorch's AdamW on diffusers' class, remat, memory and time."""

from __future__ import annotations

from twinvae.bench.bars import ROUNDING, SHOWN_ONLY, Bar, Held, because

LOSS, APART = "loss, relative", "gradients apart"
PEAK, SHARE, OVER_PYTORCH = "peak", "peak over that without remat", "time over PyTorch's"

STEP = because(
    "Of the tensor that is farthest off, over its norm: rounding gives 1.1e-11 of weights, where a gradient is near "
    "the optimiser's epsilon, 8.8e-13 and 1.4e-12 of moments, 6e-16 of the loss. Planted: no weight decay gives "
    "1.0e-7 of weights, an epsilon a tenth larger 1.2e-5, a divergence 1 % heavier 2.1e-7 of moments.",
    **{
        LOSS: Bar(1e-12, ROUNDING, 1e-14),
        "weights": Bar(1e-10, ROUNDING, 1e-13),
        "first moments": Bar(1e-10, ROUNDING, 1e-13),
        "second moments": Bar(1e-10, ROUNDING, 1e-13),
    },
)
CURVE = because(
    "Rounding grows from 2e-16 at the first step to 3.9e-8 among 20, since a gradient near epsilon decides where a "
    "weight goes. Planted: an epsilon a tenth larger gives 7.7e-7, a divergence 1 % heavier 8.8e-7, no weight decay "
    "9.5e-7, a second moment that forgets twice as fast 1.1e-4, a schedule that ends 10 % higher 4.3e-4.",
    **{LOSS: Bar(2e-7, ROUNDING, 2e-8)},
)
REMAT = because(
    "What is computed again is the same: rounding gives 2.2e-15 of the gradient that is farthest off, over its norm. "
    "Of a CPU's program the peak hardly moves (1.00 of a tiny model's without): it is shown here, and judged by the "
    "compilers of chips.",
    **{APART: Bar(1e-12, ROUNDING, 1e-14), PEAK: Bar(None, 1.02, unit="MB"), SHARE: Bar(None, 1.02, unit="x")},
)
PROGRAMS = because(
    "The compiler's own word: of one program the same on every run. 2 % is room for other versions, not measured.",
    **{
        PEAK: Bar(None, 1.02, unit="GB"),
        SHARE: Bar(
            0.45,
            1.02,
            unit="x",
            why="A figure to reach on a v6e, which takes 0.30 (13.6 GB of 45.8). An H100 "
            "takes 0.51, 10.3 of 20.4 GB, of which 3.5 are weights, average and moments.",
        ),
    },
)
TIME = because(
    "A figure to reach. Both sides take a whole step (forward, backward, clipping, AdamW), in turn: 0.34 on one core "
    "and 0.29 on two, beside other work.",
    **{OVER_PYTORCH: Bar(0.8, SHOWN_ONLY, unit="x")},
)

BARS = (
    Held("a step", STEP, {"case": "a step"}),
    Held("losses of 20 steps", CURVE, {"case": ".* steps"}),
    Held("remat", REMAT, {"case": "remat"}),
    Held("steps by compilers", PROGRAMS, {"case": "a step, .*"}),
    Held("a step's time", TIME, {"case": "a step's time"}),
)
