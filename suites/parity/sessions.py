"""Sessions: calls and settings in any order on one VAE, each call against diffusers' own class with the same settings.

A session is data: a list of steps, `[name, argument, ...]`. Hypothesis draws them (`test_sessions.py`); what was once
found is in `sessions.jsonl` and is replayed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from suites.parity import settings
from suites.parity.settings import Row
from twinvae.bench import metrics

FOUND = Path(__file__).with_name("sessions.jsonl")
LIMIT = 1e-11  # of relative_l2, in float64: `WHOLE` in twinvae/bench/bars.py says why
HALVES = ("encode", "decode")
TOGETHER = ((2, 1), (3, 2))
TILINGS = ("none", "no overlap")
START: Row = {name: values[0] for name, values in settings.FACTORS.items()} | {
    "together": TOGETHER[0], "frames": (3, 0), "size": (4, 1), "quant": "both", "ratio": 2, "batch": 2,
}  # fmt: skip


class HandedOut(NamedTuple):
    """A conv cache, and all that a stream needs to go on from it.

    Attributes:
        given, expected: frames that remain to be put in, and to come out.
    """

    cache: Any
    operation: str
    row: Row
    given: np.ndarray
    expected: np.ndarray


class Session:
    """A VAE and diffusers' model, which are set and called alike; every step checks what it can.

    Attributes:
        worst: the largest relative error so far.
        done: the steps so far, the one that went wrong included.
    """

    def __init__(self, vae: Any, model: Any, rng: np.random.Generator):
        self.vae, self.model, self.row, self.worst = vae, model, dict(START), 0.0
        self.clips = {half: settings.clip_of(START | {"asked": half, "tiling": "no overlap"}, rng) for half in HALVES}
        self.forms = getattr(vae, "forms", ())[:2]
        vae.slab_bytes = 1  # single rows
        self.streams: list[tuple[Any, HandedOut]] = []
        self.caches: list[HandedOut] = []
        self.done: list[list[Any]] = []
        self.known: dict[Any, np.ndarray] = {}

    def run(self, steps: list[list[Any]]) -> Session:
        for step in steps:
            self.done.append(step)
            getattr(self, step[0])(*step[1:])
        return self

    # Settings

    def together(self, number: int) -> None:
        self.row["together"] = TOGETHER[number]
        self.vae.num_sample_frames_batch_size, self.vae.num_latent_frames_batch_size = TOGETHER[number]

    def tiling(self, number: int) -> None:
        self.row["tiling"] = TILINGS[number]
        self.vae.disable_tiling()
        if number:
            tile, overlap = settings.tile_of(self.row)
            self.vae.enable_tiling(tile, tile, overlap, overlap)

    def slicing(self, on: int) -> None:
        self.row["slicing"] = bool(on)
        (self.vae.enable_slicing if on else self.vae.disable_slicing)()

    def form(self, number: int) -> None:
        """Another form, where the backend has others."""
        if len(self.forms) > 1:
            self.vae.forms = (self.forms[number],)

    # Calls

    def call(self, half: str) -> None:
        clip = self.clips[half]
        found = self.vae.encode(clip).moments if half == "encode" else self.vae.decode(clip)
        self._same(found, self._expected(half, clip), half)

    def adapter(self, half: str) -> None:
        row = self.row | {"asked": half, "way": "adapter", "kind": "torch"}
        clip = self.clips[half]
        self._same(settings.of_backend(self.vae, row, clip), self._expected(half, clip), f"{half} by the adapter")

    def begin(self, half: str) -> None:
        clip = self.clips[half]
        stream = getattr(self.vae, f"{half}_stream")(clip)
        self.streams.append((stream, HandedOut(None, half, dict(self.row), clip, self._expected(half, clip))))

    def go_on(self, number: int) -> None:
        """Take a chunk of a stream, and keep the conv cache that it hands out."""
        if not self.streams:
            return
        index = number % len(self.streams)
        stream, rest = self.streams[index]
        size = rest.row["together"][rest.operation == "decode"]
        count = rest.given.shape[1]
        taken = count if count < 2 * size else (size if rest.cache else size + count % size)
        chunk = np.asarray(next(stream))
        self._same(chunk, rest.expected[:, : chunk.shape[1]], f"a chunk of a stream to {rest.operation}")
        rest = rest._replace(
            cache=stream.cache, given=rest.given[:, taken:], expected=rest.expected[:, chunk.shape[1] :]
        )
        if rest.given.shape[1]:
            self.streams[index] = stream, rest
            self.caches.append(rest)
            return
        assert rest.expected.shape[1] == 0, f"{rest.expected.shape[1]} frames are missing from a stream"
        assert next(stream, None) is None, "a stream goes on after its last frame batch"
        del self.streams[index]

    def resume(self, number: int) -> None:
        """Go on from a conv cache that was handed out, whatever became of its stream."""
        if not self.caches:
            return
        rest = self.caches[number % len(self.caches)]
        if rest.row["together"] != self.row["together"]:
            return  # another split of the same frames, which diffusers does not have
        resumed = getattr(self.vae, f"{rest.operation}_stream")
        if rest.row["tiling"] != self.row["tiling"]:
            try:
                resumed(rest.given, rest.cache)
            except ValueError:
                return
            raise AssertionError("a conv cache of other tiles was taken")
        found = np.concatenate([np.asarray(chunk) for chunk in resumed(rest.given, rest.cache)], axis=1)
        self._same(found, rest.expected, f"a stream to {rest.operation}, resumed")

    # What is compared

    def _expected(self, half: str, clip: np.ndarray) -> np.ndarray:
        key = half, clip.shape, repr(self.row)
        if key not in self.known:
            self.known[key] = settings.of_diffusers(self.model, self.row | {"asked": half}, clip)
        return self.known[key]

    def _same(self, found: Any, expected: np.ndarray, what: str) -> None:
        found = np.asarray(found)
        assert found.shape == expected.shape, f"{what}: shape {found.shape}, expected {expected.shape}; {self.row}"
        error = metrics.relative_l2(found, expected)
        self.worst = max(self.worst, error)
        assert error <= LIMIT, f"{what}: relative error {error:.1e}, expected at most {LIMIT}; {self.row}"


def found() -> list[list[list[Any]]]:
    """The sessions that were once found to go wrong."""
    return [json.loads(line) for line in FOUND.read_text(encoding="utf-8").splitlines()]


def keep(some: list[list[list[Any]]]) -> None:
    """Append sessions to those that were found."""
    with FOUND.open("a", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(steps)}\n" for steps in some)
