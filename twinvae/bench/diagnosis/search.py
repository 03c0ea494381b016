"""The search: which signatures, confirmed one after another, make of the reference what the port is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from twinvae.bench.diagnosis.experiments import OUTPUT, Case, agreement, at_bounds, off_by
from twinvae.bench.diagnosis.signatures import TILED, Signature, of_modules, signatures
from twinvae.bench.diagnosis.variant import Change, Variant

GAIN, LOSS = 0.02, 0.005  # shares of a part's elements; chance makes 1e-5 of them agree in float32
FIRSTS = 6  # signatures that explain a part of a case, beside which a second is tried
NEAR = 3  # cases, the simplest that depart, in which more than one signature of the whole VAE is tried
TRIES = 3  # searches, each without what the one before had to take back
BOUNDS = "bounds"


class Observed(NamedTuple):
    """A case, what went in, what the port made of it, and the reference of its config."""

    case: Case
    clip: np.ndarray
    parts: dict[str, np.ndarray]
    variant: Variant


class Confirmed(NamedTuple):
    """A signature that reproduces the port.

    Attributes:
        others: signatures that no case told apart from it.
        shown: the case in which it was confirmed.
        before, after: the largest error of the output, or of the block that shows it, without it and with it.
        part: that block, or the output.
        share: the share of that part's elements that agree to rounding with it.
        acts: names of the cases in which it makes a difference beside the others.
    """

    signature: Signature
    others: tuple[Signature, ...]
    shown: Case
    before: float
    after: float
    part: str
    share: float
    acts: tuple[str, ...] = ()


_TIME = ("together", "remainder", "cache", "handed on", "pooled axes", "odd frame", "temporal pooling", "odd latents",
         "doubled frames")  # fmt: skip


def acts_in(field: str, case: Case, clipped: bool = True) -> bool:
    """Whether a piece can make a difference in a case."""
    if field in TILED:
        return case.settings.tile is not None
    if field in _TIME:
        return case.size[1] > 1
    if field == "items":
        return case.size[0] > 1
    if field == "quant convs":
        return bool(case.fields.get("use_quant_conv"))
    return clipped or field != "clip"


class Search:
    """Signatures of one operation, confirmed greedily.

    Args:
        observed: the simplest case first.
        bar: the relative error that rounding leaves.
        until: seconds by the clock at which to stop.
        say: what to call at once with each that explains a case whole, and so will stay confirmed.
    """

    def __init__(
        self,
        observed: Sequence[Observed],
        bar: float,
        until: float,
        clock: Callable[[], float] = time.monotonic,
        say: Callable[[Confirmed], Any] = lambda confirmed: None,
    ):
        self.observed, self.bar, self._until, self._clock, self._say = list(observed), bar, until, clock, say
        self.confirmed: list[Confirmed] = []
        self.cut = False
        self._known: dict[Any, dict[str, float]] = {}
        self._banned: set[Change] = set()
        self._rescore()

    @property
    def changes(self) -> tuple[Change, ...]:
        return tuple(one.signature.change for one in self.confirmed)

    @property
    def unexplained(self) -> list[Observed]:
        return [one for one, score in zip(self.observed, self.scores, strict=True) if self._open(score)]

    def run(self) -> list[Confirmed]:
        """All that is confirmed; what explains no case whole is taken back, and looked for again without it."""
        for _ in range(TRIES):
            while not self.cut and (found := self._step()):
                self.confirmed += found
                self._rescore()
                unexplained = {one.case.name for one in self.unexplained}
                for one in found:
                    if one.shown.name not in unexplained:
                        self._say(one)
            settled = self._settled()
            dropped = {one.signature.change for one in self.confirmed} - {one.signature.change for one in settled}
            self._banned |= dropped
            self.confirmed = settled
            self._rescore()
            if not dropped:
                break
        return self.confirmed

    def _rescore(self) -> None:
        self.scores = [self._score(index, ()) for index in range(len(self.observed))]

    def agrees_anywhere(self) -> list[bool]:
        """Whether some of a case's elements agree to rounding, of every case, before anything is confirmed."""
        return [max(share for name, share in score.items() if name != BOUNDS) > GAIN for score in self.scores]

    def errors(self) -> list[float]:
        """The largest error over the largest value of every case that agrees to the bar."""
        found = []
        for one, score in zip(self.observed, self.scores, strict=True):
            if not self._open(score):
                expected = self.expected(one)[OUTPUT]
                found.append(off_by(one.parts[OUTPUT], expected) / (np.abs(expected).max() or 1))
        return found

    def expected(self, one: Observed) -> dict[str, np.ndarray]:
        """The reference with all that is confirmed."""
        return self._parts(one, ()) or {}

    # One more signature, or two

    def _step(self) -> list[Confirmed]:
        failing = [index for index, score in enumerate(self.scores) if self._open(score)]
        tables = {index: self._table(index) for index in failing}
        for near in (failing[:NEAR], failing[NEAR:]):
            for index in near:  # one that explains a whole case
                if found := self._best(index, tables[index], whole=True):
                    return [found]
            for index in near[:NEAR]:  # one of a single module
                one = self.observed[index]
                table = of_modules(one.variant, one.case.operation, self._departing(index))
                if near[0] == failing[0] and (found := self._best(index, table, whole=True)):
                    return [found]
            for index in near[:NEAR]:  # two that explain a whole case, of which one explains a part
                for first in self._gainers(index, tables[index])[:FIRSTS]:
                    others = [other for other in tables[index] if other.field != first.field]
                    if found := self._best(index, others, (first.change,), whole=True):
                        return [self._shown(index, first, [], (found.signature.change,)), found]
        for index in failing:  # one that explains a part of a case
            if found := self._best(index, tables[index]):
                return [found]
        for index in failing[:1]:  # two that explain a case together, and nothing of it alone
            for first in tables[index]:
                others = [other for other in tables[index] if other.field > first.field]
                if found := self._best(index, others, (first.change,), whole=True):
                    return [self._shown(index, first, [], (found.signature.change,)), found]
        return []

    def _table(self, index: int) -> list[Signature]:
        """What may act in a case, less what is confirmed or was taken back."""
        one, taken = self.observed[index], {(change.field, change.where) for change in self.changes}
        clipped = at_bounds(one.parts[OUTPUT])
        return [
            signature
            for signature in signatures(one.variant, one.case.operation)
            if (signature.field, signature.where) not in taken
            and signature.change not in self._banned
            and acts_in(signature.field, one.case, clipped)
        ]

    def _gainers(self, index: int, table: Iterable[Signature], beside: tuple[Change, ...] = ()) -> list[Signature]:
        """Those that explain a part of a case, most of it first."""
        gains = []
        for signature in table:
            if self._clock() > self._until:
                self.cut = True
                break
            if self._refuted(index, (*beside, signature.change)):
                continue
            score = self._score(index, (*beside, signature.change))
            if (gain := self._gain(self.scores[index], score, signature.field)) >= GAIN:
                gains.append((gain, signature))
        return [signature for _, signature in sorted(gains, key=lambda pair: -pair[0])]

    def _refuted(self, index: int, changes: tuple[Change, ...]) -> bool:
        """Whether a simpler case agrees already, and would not with these."""
        simpler = [other for other in range(index) if not self._open(self.scores[other])]
        return any(self._loss(self.scores[other], self._score(other, changes)) > LOSS for other in simpler[:NEAR])

    def _best(
        self, index: int, table: Iterable[Signature], beside: tuple[Change, ...] = (), whole: bool = False
    ) -> Confirmed | None:
        """The signature that explains most of a case and contradicts no other.

        Args:
            whole: only one with which the case agrees to rounding, but for what is clipped.
        """
        ranked = []
        for signature in self._gainers(index, table, beside):
            changes = (*beside, signature.change)
            if whole and self._score(index, changes)[BOUNDS if signature.field == "clip" else OUTPUT] < 1 - 1e-9:
                continue
            scores = [self._score(other, changes) for other in range(len(self.observed))]
            if all(self._loss(old, new) <= LOSS for old, new in zip(self.scores, scores, strict=True)):
                ranked.append((sum(sum(score.values()) / len(score) for score in scores), signature))
        if not ranked:
            return None
        ranked.sort(key=lambda row: (-row[0], bool(row[1].where)))
        total, best = ranked[0]
        # What is done in one module and does as much as done everywhere is no other cause; of equals all are said.
        equal = [other for score, other in ranked[1:] if total - score < 1e-9]
        return self._shown(index, best, equal, beside)

    def _shown(
        self, index: int, signature: Signature, others: Sequence[Signature], beside: tuple[Change, ...]
    ) -> Confirmed:
        one, old = self.observed[index], self.scores[index]
        score = self._score(index, (*beside, signature.change))
        gaining = [name for name in score if score[name] - old[name] >= GAIN and name != BOUNDS]
        part = OUTPUT if OUTPUT in gaining or not gaining else gaining[0]
        before, after = self._parts(one, ()) or {}, self._parts(one, (*beside, signature.change)) or {}
        return Confirmed(
            signature, tuple(others), one.case, _without(one.parts[part], before[part]),
            _off_where_close(one.parts[part], after[part], self.bar), part, score[part],
        )  # fmt: skip

    def _settled(self) -> list[Confirmed]:
        """Those that act in a case which is explained whole, with all cases in which each acts."""
        kept = []
        for one in self.confirmed:
            rest = tuple(change for change in self.changes if change != one.signature.change)
            acts, whole = [], False
            for index, score in enumerate(self.scores):
                without = self._score(index, (), only=rest)
                if max(score[name] - without[name] for name in score) > LOSS:
                    acts.append(self.observed[index].case.name)
                    whole = whole or not self._open(score)
            if whole:
                kept.append(one._replace(acts=tuple(acts)))
        return kept

    # How far a port agrees

    def _parts(
        self, one: Observed, more: tuple[Change, ...], only: tuple[Change, ...] | None = None
    ) -> dict[str, np.ndarray] | None:
        changes = self.changes if only is None else only
        try:
            return one.variant.changed(*changes, *more).parts(one.case.operation, one.clip, one.case.settings)
        except (RuntimeError, ValueError, KeyError, IndexError):
            return None  # what cannot be done with this clip

    def _score(self, index: int, more: tuple[Change, ...], only: tuple[Change, ...] | None = None) -> dict[str, float]:
        """The share of each part that agrees; "bounds" is the share of what is clipped that the other side clips."""
        key = index, frozenset((*(self.changes if only is None else only), *more))
        if key not in self._known:
            one = self.observed[index]
            expected = self._parts(one, more, only) or {}
            score = {
                name: agreement(found, expected[name], self.bar) if name in expected else 0.0
                for name, found in one.parts.items()
            }
            if at_bounds(one.parts[OUTPUT]):
                there = expected.get(OUTPUT, np.zeros(0))
                bounds = np.abs(one.parts[OUTPUT]) == 1
                same = there.shape == bounds.shape
                score[BOUNDS] = float(np.mean(np.abs(there[bounds]) == 1)) if same else 0.0
            self._known[key] = score
        return self._known[key]

    def _open(self, score: dict[str, float]) -> bool:
        return score[OUTPUT] < 1 - 1e-9 or score.get(BOUNDS, 1) < 1 - 1e-9

    def _gain(self, old: dict[str, float], new: dict[str, float], field: str) -> float:
        return max(new[name] - old[name] for name in old if name != BOUNDS or field == "clip")

    def _loss(self, old: dict[str, float], new: dict[str, float]) -> float:
        return max(old[name] - new[name] for name in old if name != BOUNDS)

    def _departing(self, index: int) -> str:
        """The first block that departs, where the port shows blocks; else none."""
        return next((name for name, share in self.scores[index].items() if share < 1 and name != OUTPUT), "")


def _without(found: np.ndarray, expected: np.ndarray) -> float:
    """How far apart two outputs are; infinite where one has frames that the other has not."""
    return off_by(found, expected) if found.shape == expected.shape else float("inf")


def _off_where_close(found: np.ndarray, expected: np.ndarray, bar: float) -> float:
    """The largest error among the elements that agree to rounding."""
    frames = min(found.shape[1], expected.shape[1])
    apart = np.abs(found[:, :frames].astype(np.float64) - expected[:, :frames])
    close = apart <= bar * (np.abs(expected).max(initial=0) or 1)
    return float(apart[close].max(initial=0))
