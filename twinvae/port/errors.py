"""What goes wrong with a port: in its own code, in what it hands over, in its process; and what it does not take."""

from __future__ import annotations


class PortError(RuntimeError):
    """Something of a port went wrong; the kinds below say what, and their names stand before the message on a page."""


class PortRaised(PortError):  # noqa: N818
    """The port's own code raised."""


class PortGave(PortError):  # noqa: N818
    """The port returned what is no clip of floats: the seam between it and the suites, not its numbers."""


class PortTimedOut(PortError):  # noqa: N818
    """A call took longer than it may."""


class PortEnded(PortError):  # noqa: N818
    """The port ended its process: an exit, a crash, or a lack of memory."""


class NotTaken(Exception):  # noqa: N818, it is no error of anybody's
    """A port does not take this (a size, a setting, more time): it is not judged on it, and the page says so."""


def rebuilt(kind: str, message: str) -> PortError:
    """The error that a worker told of."""
    return {error.__name__: error for error in (PortRaised, PortGave, PortEnded)}[kind](message)
