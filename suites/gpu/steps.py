"""What a run on a card does, as data: steps, the most valuable first, each with the seconds that it may take."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from suites.speed.cases import CHANNELS_LAST, COMPILED, PYTORCH, Contender, Size
from twinvae.tiles import Operation

Kind = Literal["parity", "speed", "plan", "memory", "diagnosis"]
FLAX, TORCHAX = Contender("flax", "jit"), Contender("torchax", "jit")
CONTENDERS = (PYTORCH, Contender("torch", CHANNELS_LAST), COMPILED, FLAX, TORCHAX)
BOTH: tuple[Operation, ...] = ("decode", "encode")
PRESET, REHEARSED_PRESET = "cogvideox-2b", "tiny"
SKIPPED = 77  # a process's status where there is nothing to measure on
LARGE = {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".93"}  # of the card, for JAX alone, which otherwise stops at three quarters


class Step(NamedTuple):
    """A process of its own.

    Args:
        seconds: after which it is ended, whatever it does.
        contenders: of speed, timed in turn; of the others, their backends are judged.
        size: frames, height and width of the clip.
        dtypes: of parity; the others are in bfloat16.
        rounds: of speed.
        first: of speed: whether first calls are recorded, which they are where nothing was compiled before.
        budget: of plan and memory: a second form, for so much memory.
        environment: of its process.
        cache: which of JAX's caches; programs that have to be compiled for their peaks to be known have another one.
    """

    name: str
    kind: Kind
    seconds: int
    size: Size
    contenders: tuple[Contender, ...] = (FLAX, TORCHAX)
    operations: tuple[Operation, ...] = BOTH
    dtypes: tuple[str, ...] = ("bfloat16",)
    rounds: int = 5
    first: bool = False
    budget: str = ""
    environment: Mapping[str, str] = MappingProxyType({})
    cache: str = ""

    @property
    def suite(self) -> str:
        """Whose records it writes; empty for none."""
        return {"plan": "memory", "diagnosis": ""}.get(self.kind, self.kind)


NINE, MORE, SMALL = Size(9, 480, 720), Size(49, 480, 720), Size(9, 96, 160)
WIDE, LONG = Size(8, 768, 1360), Size(81, 768, 1360)
# What an earlier step has compiled, a later one finds in JAX's cache: parity of 9 frames compiles nothing. The seconds
# are about twice what a step takes on an H100.
STEPS = (
    Step("speed-9", "speed", 180, NINE, (PYTORCH, FLAX, TORCHAX), first=True),
    Step("plan-81", "plan", 150, LONG, (FLAX,), ("decode",), budget="24GiB", environment=LARGE, cache="-of-plans"),
    Step("memory-81", "memory", 60, LONG, (FLAX,), ("decode",), budget="24GiB", environment=LARGE, cache="-of-plans"),
    Step("speed-81-flax", "speed", 90, LONG, (FLAX,), ("decode",), rounds=2, environment=LARGE, cache="-of-plans"),
    Step("speed-81-torch", "speed", 150, LONG, (PYTORCH,), ("decode",), rounds=1),
    Step("speed-49", "speed", 160, MORE, (PYTORCH, FLAX, TORCHAX), rounds=3),
    Step("parity-9", "parity", 100, NINE),
    Step("parity-small", "parity", 160, SMALL, dtypes=("float32", "bfloat16")),
)  # fmt: skip
# Where there is time left, in this order; a run is complete without them.
MORE_STEPS = (
    Step("compile-9", "speed", 150, NINE, (FLAX, COMPILED), ("decode",), rounds=3),
    Step("parity-wide", "parity", 120, Size(9, 768, 1360)),  # arrays of more than 2^31 numbers
    Step("channels-last-9", "speed", 60, NINE, (Contender("torch", CHANNELS_LAST),), rounds=3),
    Step("speed-8", "speed", 150, WIDE, (PYTORCH, FLAX), rounds=3),
    Step("speed-8-torchax", "speed", 150, WIDE, (TORCHAX,), environment=LARGE),
    Step("speed-81-torchax", "speed", 200, LONG, (TORCHAX,), ("decode",), rounds=2, environment=LARGE),
)  # fmt: skip
DIAGNOSES = (
    Step("diagnose-torchax", "diagnosis", 120, NINE, (TORCHAX,), ("decode",), environment=LARGE, cache="-of-diagnoses"),
    Step("diagnose-flax", "diagnosis", 90, NINE, (FLAX,), ("decode",), environment=LARGE, cache="-of-diagnoses"),
)


def rehearsed(step: Step) -> Step:
    """The same step, of frames that a CPU puts through in no time."""
    size = step.size._replace(height=16 * round(step.size.height / 240), width=16 * round(step.size.width / 240))
    return step._replace(size=size._replace(height=max(size.height, 16), width=max(size.width, 16)), environment={})


def chosen(names: str | None, rehearse: bool = False) -> list[Step]:
    """The steps of a list of names, in its order; all but the diagnoses where there is none.

    Raises:
        ValueError: no such step, or one that is there twice.
    """
    known = {step.name: step for step in (*STEPS, *MORE_STEPS, *DIAGNOSES)}
    wanted = (
        [step.name for step in (*STEPS, *MORE_STEPS)] if names is None else [name for name in names.split(",") if name]
    )
    if not wanted or (unknown := [name for name in wanted if name not in known]) or len({*wanted}) < len(wanted):
        what = f"unknown {', '.join(unknown)}" if wanted and unknown else "none, or one of them twice"
        raise ValueError(f"--only {names}: {what}; choose from {', '.join(known)}")
    return [rehearsed(known[name]) if rehearse else known[name] for name in wanted]
