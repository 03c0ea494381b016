"""Settings and calls in any order on one VAE: a state machine whose model is diffusers' own class."""

from __future__ import annotations

from collections.abc import Callable

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from suites.parity import sessions, settings
from suites.parity.bars import SETTINGS
from suites.parity.sessions import HALVES, START, TILINGS, TOGETHER, Session
from twinvae.bench.bars import hold

pytestmark = [
    pytest.mark.needs("weights", "config", "shapes", "tiling", "slicing", "stream", "house"),
    pytest.mark.only(mode=("jit",), dtype=("float64",)),
]
EXAMPLES, STEPS = 8, 10  # sessions, and steps of each

AMONG = st.integers(0, 3)
HALF = st.sampled_from(HALVES)


@pytest.fixture
def begin(backend, mode, dtype, options, once) -> Callable[[], Session]:
    """`begin()`: a session of its own on a VAE as it was loaded."""

    def load():
        model = settings.drawn_model(START, np.random.default_rng(options.seed))
        vae = settings.load(model, backend, START)
        return vae, dict(vars(vae)), model

    vae, loaded, model = once((__name__, backend), load)

    def begin() -> Session:
        vars(vae).update(loaded)
        return Session(vae, model, np.random.default_rng(options.seed))

    return begin


def machine(begin: Callable[[], Session], done: list[Session]) -> type[RuleBasedStateMachine]:
    """Hypothesis' machine: its rules are the steps of a session, and `done` has every session, the last one last."""

    class Machine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.session = begin()
            done.append(self.session)

        @rule(number=st.integers(0, len(TOGETHER) - 1))
        def together(self, number: int) -> None:
            self.session.run([["together", number]])

        @rule(number=st.integers(0, len(TILINGS) - 1))
        def tiling(self, number: int) -> None:
            self.session.run([["tiling", number]])

        @rule(on=st.integers(0, 1))
        def slicing(self, on: int) -> None:
            self.session.run([["slicing", on]])

        @rule(number=st.integers(0, 1))
        def form(self, number: int) -> None:
            self.session.run([["form", number]])

        @rule(half=HALF)
        def call(self, half: str) -> None:
            self.session.run([["call", half]])

        @rule(half=HALF)
        def adapter(self, half: str) -> None:
            self.session.run([["adapter", half]])

        @rule(half=HALF)
        def begin_stream(self, half: str) -> None:
            self.session.run([["begin", half]])

        @precondition(lambda self: self.session.streams)
        @rule(number=AMONG)
        def go_on(self, number: int) -> None:
            self.session.run([["go_on", number]])

        @precondition(lambda self: self.session.caches)
        @rule(number=AMONG)
        def resume(self, number: int) -> None:
            self.session.run([["resume", number]])

    return Machine


def explored(begin: Callable[[], Session], examples: int, steps: int, seed: int | None = None) -> list[Session]:
    """Sessions that Hypothesis drew and ran, the same ones each time unless it is given a seed.

    Where one goes wrong, the last that was begun is the shortest that does.
    """
    done: list[Session] = []
    how = hypothesis.settings(
        max_examples=examples, stateful_step_count=steps, database=None, deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck), derandomize=seed is None, print_blob=False,
    )  # fmt: skip
    run = machine(begin, done)
    run_state_machine_as_test(run if seed is None else hypothesis.seed(seed)(run), settings=how)
    return done


def test_settings_and_calls_in_any_order_give_what_diffusers_class_gives(begin, record):
    done = explored(begin, EXAMPLES, STEPS)
    hold(record, SETTINGS["float64"], {"relative_l2": max(one.worst for one in done)}, "settings in any order")


@pytest.mark.parametrize("number", range(len(sessions.found())))
def test_a_session_that_was_once_found_gives_what_diffusers_class_gives(number, begin, record):
    worst = begin().run(sessions.found()[number]).worst
    hold(record, SETTINGS["float64"], {"relative_l2": worst}, f"settings, session {number + 1}")
