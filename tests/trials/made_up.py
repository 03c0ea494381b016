"""Trials of made-up faults and mutants, for the tests of what becomes of them."""

from __future__ import annotations

from typing import Any

from trials.alarm import Outcome
from trials.catalogue import Fault
from trials.mutation import Mutant
from trials.results import Trial

EDIT = {"file": "port.py", "find": "x = 1", "replace": "x = 2"}
BASE = {"name": "one", "models": "A mistake.", "kind": "value", "suite": "parity"}
ALARM = {"seconds": 20.0, "suite": "parity", "test": "suites/parity/test_layers.py::test_x[flax]",
         "what": "past its limit", "evidence": "exact"}  # fmt: skip
STATUS = {"caught": "alarm", "missed": "clean", "equivalent": "clean"}


def outcome(status: str, **fields: Any) -> Outcome:
    given = ALARM | fields if status == "caught" else {"seconds": 20.0} | fields
    return Outcome(status=STATUS.get(status, "broken"), **given)


def fault(**fields: Any) -> Fault:
    return Fault.model_validate({"group": "axes"} | BASE | EDIT | fields)


def trial(name: str = "one", status: str = "caught", by: dict[str, Any] | None = None, **fields: Any) -> Trial[Fault]:
    """A fault on trial; `by` are fields of its outcome."""
    tried = {"outcome": outcome(status, **(by or {})), "date": "2026-03-04T05:06:07+00:00", "commit": "0123456789ab"}
    return Trial[Fault](planted=fault(name=name, **fields), status=status, **tried)


def mutant(number: int = 1, **fields: Any) -> Mutant:
    given = {"file": "impl_flax/port.py", "line": number, "operator": "NumberReplacer", "occurrence": number,
             "before": f"x = {number}", "after": f"x = {number + 1}"}  # fmt: skip
    return Mutant(**(given | fields))


def mutant_trial(number: int, status: str, by: dict[str, Any] | None = None, **fields: Any) -> Trial[Mutant]:
    tried = {"outcome": outcome(status, **(by or {})), "date": f"2026-03-0{number}T05:06:07+00:00", "commit": "0123456"}
    return Trial[Mutant](planted=mutant(number, **fields), status=status, **tried)
