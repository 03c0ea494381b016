"""A few small calls that find out what a port takes and gives: axes, arrays, dtypes, sizes, and what it can do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from twinvae import arrays
from twinvae.capabilities import CAPABILITIES, Capability
from twinvae.checkpoint import fingerprint
from twinvae.config import VAEConfig
from twinvae.frames import DECODED_TOGETHER, ENCODED_TOGETHER, latent_count, sample_count
from twinvae.port.errors import NotTaken, PortError, PortRaised, PortTimedOut
from twinvae.port.layouts import CHANNEL_LAST, LAYOUTS, arranged, layout_of, spelled
from twinvae.port.vae import PortVAE, Ways
from twinvae.tensors import Tensors

if TYPE_CHECKING:
    from twinvae.port.module import Port

FRAMES, CELLS = 9, (5, 7)  # of the first call: no two axes of what goes in, nor of what comes out, are of one size
UNEVEN = (2, 2, 17, 26)  # two clips of two frames, of sides that are no multiples of 8
KINDS = ("jax", "numpy", "torch")
FAILED = (PortError, NotTaken)


@dataclass(frozen=True)
class Finding:
    """What a port is, as far as small calls tell.

    Attributes:
        capabilities, dtypes, modes: what it is judged on.
        notes: what was found, and what it is not judged on and why, a sentence each.
        vae: the object that was tried.
    """

    ways: Ways
    capabilities: frozenset[Capability]
    dtypes: tuple[str, ...]
    modes: tuple[str, ...]
    notes: tuple[str, ...]
    vae: PortVAE


def probe(port: Port, config: VAEConfig, tensors: Tensors, dtypes: Sequence[str]) -> Finding:
    """Try a port on a model.

    Raises:
        PortError: it cannot be built.
    """
    facts, notes = port.facts, []
    ways, checkpoint = Ways(), fingerprint(tensors)
    if "frames" in facts:
        ways.frames = (facts["frames"],) if isinstance(facts["frames"], int) else tuple(sorted(facts["frames"]))
    low, high = facts.get("value_range", ways.value_range)
    ways.value_range = float(low), float(high)
    wanted = [dtype for dtype in ("float32", "float64", "bfloat16") if dtype in (port.declared_dtypes or dtypes)]
    jit = "jit" in port.takes or bool(facts.get("jit"))

    def made(dtype: str) -> PortVAE:
        return port.made(config, tensors, dtype, jit, checkpoint, ways, CAPABILITIES)

    vae = made(wanted[0])
    found: set[Any] = {"whole", *vae.inspected()}
    for name in ("config", "tensors", "folder"):
        found |= {"weights"} if name in port.takes else set()
    found |= {"config"} if port.takes & {"config", "folder"} else set()
    found |= {"reads"} if "folder" in port.takes else set()
    cell = config.spatial_compression
    scale = -(-int(facts.get("sizes", 1)) // cell)
    encodes = _axes(vae, "encode", scale, facts, notes)
    if not encodes and "sizes" not in facts and isinstance(vae.failed, PortRaised):
        found_twice: list[str] = []
        if encodes := _axes(vae, "encode", 2, facts, found_twice):
            ways.sizes, scale, notes = 2 * cell, 2, found_twice
    decodes = _axes(vae, "decode", scale, facts, notes)
    if ways.moments:
        found.add("moments")
    elif encodes:
        notes.append("encode gives latents alone: the mode is judged, a log-variance is not")

    orders = {ways.takes, *ways.gives.values()}
    if encodes and decodes and (ways.kind, orders) == ("torch", {"bcthw"}) and vae.is_wrapper():
        found.add("pipeline")

    taken = [
        dtype for dtype in wanted if _takes_dtype(vae if dtype == wanted[0] else made(dtype), scale, encodes, decodes)
    ]
    if not taken and (encodes or decodes):
        given = _dtype_given(vae, scale, encodes)
        taken = [given] if given in arrays.DTYPES else wanted[:1]
        if given != wanted[0]:
            notes.append(f"given {wanted[0]} it returns {given}")
    taken = taken or wanted[:1]
    if left := [dtype for dtype in arrays.DTYPES if dtype in dtypes and dtype not in taken]:
        notes.append(f"computes in {', '.join(taken)}: not judged in {', '.join(left)}")
    if set(taken) == set(arrays.DTYPES):
        found.add("dtypes")

    if jit:
        found.add("jit")
        modes: tuple[str, ...] = ("eager", "jit")
    else:
        modes = ("eager",)
        notes.append("run as it is, in one mode" + (_of_jit(vae) if encodes else ""))
    if encodes:
        _shapes(vae, facts, notes)
    if ways.sizes == 1 and ways.items is None and ways.frames is None:
        found.add("shapes")
    declared = frozenset(facts.get("capabilities", found)) | {"whole"}
    ordered = tuple(dtype for dtype in arrays.DTYPES if dtype in taken)
    return Finding(ways, frozenset(found & declared), ordered, modes, tuple(notes), vae)


def _axes(vae: PortVAE, operation: Any, scale: int, facts: dict[str, Any], notes: list[str]) -> bool:
    """Find the layout and the kind of arrays by which an operation can be called; whether there are any.

    A layout that the port declares is checked alone, and so is what encoding found when it comes to decoding.

    Args:
        scale: of height and width, for ports that do not take the smallest.
    Raises:
        ValueError: the port declares another layout than it has.
    """
    config, ways = vae.config, vae.ways
    cells, cell = (scale * CELLS[0], scale * CELLS[1]), config.spatial_compression
    count = (ways.frames or (FRAMES,))[-1]
    latents = latent_count(count, ENCODED_TOGETHER, config.temporal_levels)
    frames = sample_count(latents, DECODED_TOGETHER, config.temporal_levels)
    video = (1, count, cells[0] * cell, cells[1] * cell)
    coded = (1, latents, *cells)
    if operation == "encode":
        shape, channels = (*video, config.in_channels), (2 * config.latent_channels, config.latent_channels)
        expected = [(*coded, count) for count in channels]
    else:
        shape, expected = (*coded, config.latent_channels), [(1, frames, *video[2:], config.out_channels)]
    clip = np.random.default_rng(0).uniform(-1, 1, shape).astype(arrays.DTYPES[vae.dtype])
    known = operation == "decode" and vae.failed is None
    layouts = [facts["layout"]] if "layout" in facts else [ways.takes] if known else list(LAYOUTS)
    kinds = [facts["arrays"]] if "arrays" in facts else [ways.kind] if known else list(KINDS)
    failed: Exception | None = None
    answers: list[tuple[bool, str, str, str | None, dict[str, np.ndarray]]] = []
    for layout in layouts:
        for kind in kinds:
            ways.kind, ways.takes = kind, layout
            try:
                parts = vae.raw(operation, clip)
            except FAILED as error:
                failed = failed or error
                if isinstance(error, PortTimedOut):
                    break
                continue
            gives, fully = layout_of(next(iter(parts.values())).shape, expected, layout)
            answers.append((fully, kind, layout, gives, parts))
            break
        if isinstance(failed, PortTimedOut) or (answers and answers[-1][0]):
            break
    if not answers:
        ways.kind, ways.takes, vae.failed = kinds[0], layouts[0], failed
        notes.append(f"the first {operation} failed: {failed}")
        return False
    # The first that fits in every axis, else the first that fits in all but one, else the first that was answered.
    answers.sort(key=lambda answer: (not answer[0], answer[3] is None))
    _, ways.kind, ways.takes, gives, parts = answers[0]
    name, found = next(iter(parts.items()))
    _say(operation, found.shape, gives, ways.takes, facts, notes)
    ways.gives[operation] = gives or ways.takes
    if operation == "encode":
        alone = name == "mean" and "logvar" not in parts
        axis = ways.gives["encode"].index("c")
        few = found.ndim == len(ways.gives["encode"]) and found.shape[axis] == config.latent_channels
        ways.moments = not alone and not (name == "moments" and few)
    return True


def _say(
    operation: str, shape: tuple[int, ...], gives: str | None, takes: str, facts: dict[str, Any], notes: list[str]
) -> None:
    if gives is None:
        notes.append(f"{operation} returned an array of shape {shape}, which is no layout of what was expected")
        return
    if "layout" in facts and gives != takes:
        raise ValueError(f"{operation} returns {spelled(gives)}, and the port declares layout={facts['layout']!r}")
    if takes != CHANNEL_LAST or gives != CHANNEL_LAST:
        declared = "as declared" if "layout" in facts else f"expected channel-last: pass layout={takes!r} to say so"
        notes.append(f"{operation} takes {spelled(takes)} and returns {spelled(gives)}; {declared}")


def _takes_dtype(vae: PortVAE, scale: int, encodes: bool, decodes: bool) -> bool:
    try:
        return _dtype_given(vae, scale, encodes) == vae.dtype if encodes or decodes else False
    except FAILED:
        return False


def _dtype_given(vae: PortVAE, scale: int, encodes: bool) -> str:
    config, cell = vae.config, vae.config.spatial_compression
    frames = (vae.ways.frames or (FRAMES,))[-1]
    shape = (1, frames, scale * CELLS[0] * cell, scale * CELLS[1] * cell, config.in_channels)
    operation: Any = "encode"
    if not encodes:
        shape, operation = (1, 3, scale * CELLS[0], scale * CELLS[1], config.latent_channels), "decode"
    out = vae.raw(operation, np.zeros(shape, arrays.DTYPES[vae.dtype]))
    return str(next(iter(out.values())).dtype)


def _of_jit(vae: PortVAE) -> str:
    config, cell = vae.config, vae.config.spatial_compression
    side = cell * max(1, vae.ways.sizes // cell)
    shape = (1, (vae.ways.frames or (1,))[0], side, side, config.in_channels)
    clip = arranged(np.zeros(shape, arrays.DTYPES[vae.dtype]), vae.ways.takes)
    try:
        why = vae.ask("traceable", "tracing", operation="encode", clip=clip)
    except FAILED:
        return ""
    return (
        f" (JAX cannot trace it whole: {why})" if why else " (JAX can trace it whole: jit = True would judge that too)"
    )


def _shapes(vae: PortVAE, facts: dict[str, Any], notes: list[str]) -> None:
    """Which sizes and how many clips it takes, by what raises; what is declared is believed."""
    ways = vae.ways
    if "sizes" in facts:
        ways.sizes = int(facts["sizes"])
    if "items" in facts:
        ways.items = int(facts["items"])
    ways.items = 1 if "b" not in ways.takes else ways.items
    if not {"frames", "sizes", "items"} & facts.keys() and ways.items is None:
        if ways.sizes == 1 and _encodes(vae, UNEVEN):
            return
        cell = max(ways.sizes, vae.config.spatial_compression)
        if ways.sizes == 1:
            sides = ((s, (1, FRAMES, 4 * cell + s, 5 * cell + s)) for s in (1, 2, 4))
            ways.sizes = next((s for s, shape in sides if _encodes(vae, shape)), cell)
        if not _encodes(vae, (2, FRAMES, 4 * cell, 5 * cell)):
            ways.items = 1
        takes = [frames for frames in (1, 2, 3, 5, 8, 9, 16, 17) if _encodes(vae, (1, frames, 4 * cell, 5 * cell))]
        ways.frames = None if len(takes) == 8 else tuple(takes)
    for limit, words in (
        (ways.sizes != 1, f"heights and widths that are multiples of {ways.sizes}"),
        (ways.items, f"{ways.items} clip at a time"),
        (ways.frames, f"{', '.join(map(str, ways.frames or ()))} frames"),
    ):
        if limit:
            notes.append(f"takes {words}: judged on those")


def _encodes(vae: PortVAE, shape: tuple[int, ...]) -> bool:
    clip = np.zeros((*shape, vae.config.in_channels), arrays.DTYPES[vae.dtype])
    try:
        vae.raw("encode", clip)
    except FAILED:
        return False
    return True
