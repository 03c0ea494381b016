"""A port's process, seen from here: requests with a time limit, and a new process where one has ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from twinvae.port.errors import PortEnded, PortTimedOut, rebuilt

START = 120.0  # seconds to import the port and what it needs
LOOK = 0.2  # seconds between looks at whether the process lives
# JAX's own settings that a port's process takes over, where they are set here.
PASSED_ON = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs", "jax_enable_compilation_cache")


class Process:
    """Runs `twinvae.port.worker`; started by the first request, and again by the one after an end.

    Attributes:
        limit: seconds that a request may take.
        generation: how many processes there have been; what was built in an earlier one is gone.
        environment: of processes that are started from now on, beside this one's; the class's is that of new ones.
        dropped: objects that nobody has any more; the next request says so.
        turn: held by the thread whose request is under way: an answer goes to the one that asked.
    """

    environment: Mapping[str, str] = {}

    def __init__(self, name: str, limit: float):
        self.name, self.limit, self.generation = name, limit, 0
        self.dropped: list[int] = []
        self.turn = threading.RLock()
        self._running: tuple[subprocess.Popen[bytes], Connection, Any] | None = None

    def ask(self, request: str, what: str, limit: float | None = None, **given: Any) -> Any:
        """Have the worker do something.

        Args:
            what: what it does, for messages.
        Raises:
            PortError: the port raised, gave no arrays, ended its process, or took too long.
            ValueError: it is no port.
        """
        with self.turn:
            return self._ask(request, what, self.limit if limit is None else limit, given)

    def _ask(self, request: str, what: str, limit: float, given: dict[str, Any]) -> Any:
        process, connection, log = self.started()
        until = time.monotonic() + limit
        try:
            dropped, self.dropped = self.dropped, []
            connection.send((request, given, dropped))
            while not connection.poll(min(LOOK, max(0.0, until - time.monotonic()))):
                if process.poll() is not None and not connection.poll():
                    raise EOFError
                if time.monotonic() > until:
                    self.close()
                    raise PortTimedOut(f"{what} took longer than {limit:g} s, and was stopped (see --time-limit)")
            kind, answer = connection.recv()
        except KeyboardInterrupt:  # its answer would be taken for the next request's
            self.close()
            raise
        except (EOFError, OSError):
            status = process.wait()
            said = _last_line(log)
            self.close()
            ended = f"a signal ({signal.Signals(-status).name})" if status < 0 else f"exit status {status}"
            raise PortEnded(f"{what} ended the port's process by {ended}{': ' if said else ''}{said}") from None
        if kind == "ValueError":
            raise ValueError(answer)
        if kind:
            raise rebuilt(kind, answer)
        return answer

    def started(self) -> tuple[subprocess.Popen[bytes], Connection, Any]:
        """The process, which has opened the port."""
        if self._running is None:
            here, there = Pipe()
            log = tempfile.TemporaryFile()  # noqa: SIM115, what the port prints, for as long as it runs
            path = os.pathsep.join(place or os.getcwd() for place in sys.path)
            process = subprocess.Popen(
                [sys.executable, "-m", "twinvae.port.worker", str(there.fileno()), self.name],
                pass_fds=[there.fileno()], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=os.environ | _of_jax() | {"PYTHONPATH": path} | dict(self.environment),
            )  # fmt: skip
            there.close()
            self._running, self.generation = (process, here, log), self.generation + 1
            weakref.finalize(self, _end, process, here, log)
            self.ask("open", f"importing {self.name}", max(START, self.limit))
        return self._running

    def close(self) -> None:
        """End the process, and whatever it has forked."""
        if self._running is not None:
            running, self._running = self._running, None
            _end(*running)


def _end(process: subprocess.Popen[bytes], connection: Connection, log: Any) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)  # the session that it leads
    process.wait()
    connection.close()
    log.close()


def _last_line(log: Any) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else ""


def _of_jax() -> dict[str, str]:
    if "jax" not in sys.modules:
        return {}
    values = sys.modules["jax"].config.values
    return {name.upper(): str(values[name]) for name in PASSED_ON if values.get(name) is not None}
