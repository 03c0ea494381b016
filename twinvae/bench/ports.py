"""Ports under the suites: what each takes of what the options ask for, and what is said of it before any test."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from twinvae.bench.effort import quick_environment
from twinvae.bench.models import Model
from twinvae.capabilities import CAPABILITIES
from twinvae.checkpoint import fingerprint
from twinvae.port import NotTaken, Port, PortError, PortVAE
from twinvae.port.process import Process
from twinvae.registry import REFERENCE, backend_module

ARCHITECTURES = ("tiny", "cogvideox-2b")  # that a port is tried on where none is named


FRAMES, CELLS = 3, (2, 3)  # of the clip by which the reference is timed
SLOWER = 100  # times the reference's time that a call may take
ROUGHLY = 0.02  # of a range: far more than rounding, far less than another range is off by


class Taken(NamedTuple):
    """What a port takes, and so is judged on.

    Attributes:
        notes: what was found, and what is not judged, a sentence each.
    """

    models: tuple[Model, ...]
    modes: tuple[str, ...]
    dtypes: tuple[str, ...]
    notes: tuple[str, ...]


def taken_by(
    name: str, models: Sequence[Model], named: bool, dtypes: tuple[str, ...], limit: float | None, seed: int
) -> Taken:
    """Try a port on what the options ask for.

    Args:
        models: those asked for, or where `named` is false, the one to begin with.
        limit: seconds that a call of it may take; None: the default.
    Raises:
        ValueError: it is no port, or cannot be built; the message says why.
        OSError: the checkpoint that it names cannot be read.
    """
    Process.environment = quick_environment()  # most models are small, and starting a process again takes seconds
    port = backend_module(name)
    if not isinstance(port, Port):  # a whole backend of the house
        return Taken(tuple(models), ("eager", "jit"), dtypes, ())
    port.budget.call = limit or port.budget.call
    if not port.builds:
        models = _own_model(port, models, named)
    elif not named:
        models = [*models, *(Model.of_preset(preset, seed) for preset in ARCHITECTURES[1:])]
    notes: list[str] = []
    built: list[Model] = []
    for model in models:
        if built and not named:
            break  # the first that it can be built of is enough, unless more were asked for
        config, tensors = model.config, model.tensors()
        environment = {} if any(one.is_large for one in [*built, model]) else quick_environment()
        if port.process.environment != environment:
            port.process.environment = environment
            port.process.close()
        try:
            if built:
                port.load(config, tensors, dtype=port.probed().dtypes[0], jit=True, checkpoint=fingerprint(tensors))
            port.probed(config, tensors, dtypes)
            built.append(model)
        except PortError as error:
            notes.append(f"not judged on {model.label}, of which it cannot be built: {error}")
    if not built:
        raise ValueError("; ".join(notes))
    found = port.probed()
    if notes:  # a folder of any config can be handed over, and not every one was taken
        found = port.found = replace(found, capabilities=found.capabilities - {"config"})
    seconds, words = _beside_the_reference(found.vae, built[0])
    port.budget.call = limit or max(port.budget.call, SLOWER * seconds)
    port.budget.restart()
    notes += [words] if words else []
    if "config" not in found.capabilities:
        notes.append(f"of one architecture: judged on {', '.join(model.label for model in built)}")
    judged = sorted(found.capabilities, key=sorted(CAPABILITIES).index)
    return Taken(tuple(built), found.modes, found.dtypes, (f"judged on: {', '.join(judged)}", *found.notes, *notes))


def _beside_the_reference(vae: PortVAE, model: Model) -> tuple[float, str]:
    """How long PyTorch decodes a small clip, and what is to be said where a port's values are of another range."""
    reference = backend_module(REFERENCE).load(
        model.config, model.tensors(), dtype=vae.dtype, jit=False, checkpoint=vae.checkpoint
    )
    latents = np.random.default_rng(0).standard_normal((1, FRAMES, *CELLS, model.config.latent_channels))
    began = time.monotonic()
    expected = np.asarray(reference.decode(latents), np.float64)
    seconds = time.monotonic() - began
    try:
        found = np.asarray(vae.decode(latents), np.float64)
    except (PortError, NotTaken):
        return seconds, ""
    return seconds, other_range(found, expected)


def other_range(found: np.ndarray, expected: np.ndarray) -> str:
    """What to declare where values are the expected ones, stretched and moved; empty where they are not."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return ""
    slope, offset = np.polyfit(expected.ravel(), found.ravel(), 1)
    off = np.abs(found - (slope * expected + offset)).max()
    if slope < ROUGHLY or off > ROUGHLY * slope or (abs(slope - 1) < ROUGHLY and abs(offset) < ROUGHLY):
        return ""
    low, high = (round(float(end), 2) for end in (offset - slope, offset + slope))
    return (
        f"decode returns the reference's values in another range: value_range = ({low:g}, {high:g}) in the port says so"
    )


def _own_model(port: Port, models: Sequence[Model], named: bool) -> list[Model]:
    """What a port that builds nothing is: what it says that it is, else what was asked for."""
    if named:
        return list(models[:1]) if len(models) == 1 else _refused_several(port, models)
    own = port.own_source()
    if own is None:
        raise ValueError(port.no_model())
    return [Model.of_checkpoint(**own) if "weights" in own else Model.of_preset(own["preset"], own["seed"])]


def _refused_several(port: Port, models: Sequence[Model]) -> list[Model]:
    names = ", ".join(model.label for model in models)
    raise ValueError(f"it builds nothing from given tensors, and so is of one model alone: found {names}; name one")
