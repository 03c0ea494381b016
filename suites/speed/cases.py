"""What is timed: sizes, dtypes and contenders per platform, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax

from twinvae.bench.bars import Bar
from twinvae.bench.options import Model, Options
from twinvae.registry import REFERENCE
from twinvae.tiles import Operation

Mode = Literal["eager", "jit"]
OPERATIONS: tuple[Operation, ...] = ("encode", "decode")
BOTH: tuple[Mode, ...] = ("eager", "jit")


class Size(NamedTuple):
    """A clip: frames, height and width of the video, and whether it goes through in tiles."""

    frames: int
    height: int
    width: int
    tiled: bool = False

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}{' tiled' if self.tiled else ''}"

    @property
    def megapixels(self) -> float:
        return self.frames * self.height * self.width / 1e6


class Plan(NamedTuple):
    """How sizes are timed. Of the reference, "eager" is always timed and "jit" means `torch.compile`.

    Args:
        rounds: undisturbed turns of each contender.
        eager: which backends are run op by op, where that is one of the modes; empty: all.
        eager_rounds: their turns; 0: as many as the others'.
    """

    sizes: tuple[Size, ...]
    operations: tuple[Operation, ...] = OPERATIONS
    dtypes: tuple[str, ...] = ("float32",)
    modes: tuple[Mode, ...] = BOTH
    reference: tuple[Mode, ...] = ("eager",)
    rounds: int = 40
    eager: tuple[str, ...] = ()
    eager_rounds: int = 0


# A small model. 16 frames: a first frame batch, and one of the same length that carries the conv cache on.
SMALL = (
    Plan((Size(16, 32, 48),), eager_rounds=8),
    Plan((Size(8, 32, 48),), dtypes=("bfloat16",), modes=("jit",), rounds=20),
)
# The full architecture. On 2 cores a call takes up to 10 s, op by op 25 s, and torch.compile a minute to compile: op by
# op only one backend decodes.
LARGE_ON_CPU = (
    Plan((Size(9, 96, 160),), ("decode",), reference=BOTH, rounds=3, eager=("flax",), eager_rounds=2),
    Plan((Size(9, 96, 160),), ("encode",), modes=("jit",), rounds=4),
)
WIDE = tuple(Size(frames, 768, 1360, tiled) for frames in (4, 8, 16, 81) for tiled in (False, True))
SMALLER = tuple(Size(frames, 480, 720, tiled) for frames in (13, 49) for tiled in (False, True))
LARGE_ON_ACCELERATOR = (
    Plan((WIDE[0],), dtypes=("bfloat16", "float32"), reference=BOTH, rounds=5, eager_rounds=3),
    Plan((*WIDE[1:], *SMALLER), dtypes=("bfloat16", "float32"), modes=("jit",), reference=BOTH, rounds=5),
)


CHANNELS_LAST = "channels_last_3d"
TORCH_NAMES = {"eager": "PyTorch", "jit": "torch.compile", CHANNELS_LAST: "PyTorch, channels last"}


class Contender(NamedTuple):
    """Who is timed: a backend, op by op ("eager") or compiled ("jit", which for the reference is torch.compile).

    The reference has a mode more, op by op with its arrays in memory as channels_last_3d.
    """

    backend: str
    mode: str

    def __str__(self) -> str:
        if self.backend == REFERENCE:
            return TORCH_NAMES[self.mode]
        return f"{self.backend} {self.mode}"

    @property
    def slow(self) -> bool:
        return self.mode == "eager" and self.backend != REFERENCE


PYTORCH, COMPILED = Contender(REFERENCE, "eager"), Contender(REFERENCE, "jit")


class Group(NamedTuple):
    """What is timed in turn: an operation on a clip."""

    model: Model
    operation: Operation
    size: Size
    dtype: str
    rounds: int
    eager_rounds: int

    def __str__(self) -> str:
        return f"{self.model.label} {self.operation} {self.size} {self.dtype}"

    def limit(self, figures: Mapping[tuple[str, str, str], Bar], contender: Contender) -> float | None:
        """The figure that a contender is to reach, where this is what the figures are given for."""
        meant = self.model.is_large and self.size == Size(9, 96, 160) and self.dtype == "float32"
        figure = figures.get((*contender, self.operation)) if meant and jax.default_backend() == "cpu" else None
        return figure and figure.limit


def timed(options: Options) -> list[dict[str, Any]]:
    """Every group and contender that the options select."""
    return [
        {"group": group, "model": group.model, "dtype": group.dtype, "backend": one.backend, "mode": one.mode}
        for group, contenders in groups(options)
        for one in contenders
    ]


def compiled(options: Options) -> list[dict[str, Any]]:
    """Those of them that XLA compiles whole."""
    return [row for row in timed(options) if row["mode"] == "jit" and row["backend"] != REFERENCE]


def groups(options: Options) -> Iterator[tuple[Group, list[Contender]]]:
    """Groups and their contenders; a dtype that is asked for by name is timed at every size."""
    asked = any(option.startswith("--dtype=") for option in options.given)
    done: set[Group] = set()
    for model in options.models:
        for plan in plans(model):
            if options.one_round:
                plan = plan._replace(rounds=1, eager_rounds=1)
            contenders = [Contender(b, m) for b in options.backends if b != REFERENCE for m in plan.modes]
            contenders += [Contender(REFERENCE, mode) for mode in plan.reference]
            contenders = [
                one
                for one in contenders
                if one == PYTORCH
                or (one.mode in options.modes and not (one.slow and plan.eager and one.backend not in plan.eager))
            ]
            for dtype in options.dtypes if asked else [d for d in plan.dtypes if d in options.dtypes]:
                for size in plan.sizes:
                    for operation in plan.operations:
                        group = Group(model, operation, size, dtype, plan.rounds, plan.eager_rounds or plan.rounds)
                        if group not in done:
                            done.add(group)
                            yield group, contenders


def plans(model: Model) -> tuple[Plan, ...]:
    if not model.is_large:
        return SMALL
    return LARGE_ON_CPU if jax.default_backend() == "cpu" else LARGE_ON_ACCELERATOR
