"""A pipeline wrapper held against its VAE's own encode and decode: what it does beside them, and a pipeline as well."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from twinvae import arrays
from twinvae.bench.diagnosis.experiments import ROUNDING
from twinvae.bench.findings import Finding, Kind
from twinvae.bench.verdicts import number
from twinvae.interface import VideoVAE
from twinvae.port import NotTaken, PortError
from twinvae.port.layouts import LAYOUTS, arranged, spelled
from twinvae.port.objects import READ
from twinvae.tiles import Operation

NAME = "pipeline wrapper"
HANDED = "bcthw"  # the order of axes in which a pipeline hands clips over, and takes them
ORDERS = (HANDED, "bctwh", *(layout for layout in LAYOUTS if layout != HANDED))
LATENTS, VIDEO = (1, 3, 2, 5), (1, 5, 16, 40)  # no two axes of one size
SEED = 7  # of the generator that draws
ITSELF = "a pipeline does that itself"


class Way(NamedTuple):
    """Something that a wrapper may do to a clip; without words where that is right."""

    says: str
    change: Callable[[np.ndarray], np.ndarray]


class Call(NamedTuple):
    """A call of a wrapper, and what may explain its answer. Clips are channel-last.

    Attributes:
        own: the answers that the VAE's own answer to a clip can be turned into, each with words as in `Way`.
        before, after: what may be done to the clip, and to the answer.
    """

    operation: Operation
    clip: np.ndarray
    own: Callable[[np.ndarray], list[tuple[str, np.ndarray]]]
    before: Sequence[Way]
    after: Sequence[Way]


RIGHT = Way("", lambda x: x)


def of_wrapper(vae: VideoVAE, seed: int) -> list[Finding]:
    """What is wrong with what a VAE puts in the place of a pipeline's, each cause once."""
    try:
        wrapper = vae.as_diffusers()
    except PortError as error:
        return [_finding("raises", f"{NAME}: as_diffusers", f"{error}.")]
    found = list(filter(None, (_of_field(wrapper, vae, name) for name in READ)))
    bar = ROUNDING["float32"] if vae.dtype != "bfloat16" else 2**-6
    for call in (_decode(vae, seed), _encode(vae, seed)):
        found += _of_call(wrapper, call, vae.dtype, bar)
    return found


def _of_field(wrapper: Any, vae: VideoVAE, name: str) -> Finding | None:
    right = getattr(vae.config, name)
    try:
        said = getattr(wrapper.config, name)
    except PortError as error:
        return _finding("raises", f"{NAME}: config.{name}", f"{error}.")
    if (tuple(said) if isinstance(right, tuple) else said) == right:
        return None
    words = f"The config of the pipeline wrapper says {name}={said!r}: the checkpoint's says {right!r}."
    return _finding("signature", f"{NAME}: config.{name}", words)


def _decode(vae: VideoVAE, seed: int) -> Call:
    factor, rng = vae.config.scaling_factor, np.random.default_rng(seed)
    before = [
        RIGHT,
        Way(f"divides latents by the scaling factor: {ITSELF}", lambda z: z / factor),
        Way("multiplies latents by the scaling factor: a pipeline hands them over without it", lambda z: z * factor),
    ]
    after = [
        RIGHT,
        Way("", lambda video: video.clip(-1, 1)),  # which a pipeline does in any case
        Way(f"maps its video from [-1, 1] to [0, 1]: {ITSELF}", lambda video: (video + 1) / 2),
        Way(f"maps its video from [-1, 1] to [0, 1], clipped: {ITSELF}", lambda video: ((video + 1) / 2).clip(0, 1)),
        Way(f"maps its video from [-1, 1] to [0, 255]: {ITSELF}", lambda video: (video + 1) * 127.5),
    ]
    latents = rng.standard_normal((*LATENTS, vae.config.latent_channels))
    return Call("decode", latents, lambda z: [("", _numpy(vae.decode(z)))], before, after)


def _encode(vae: VideoVAE, seed: int) -> Call:
    factor, rng = vae.config.scaling_factor, np.random.default_rng(seed)

    def own(video: np.ndarray) -> list[tuple[str, np.ndarray]]:
        posterior = vae.encode(video)
        mean = _numpy(posterior.mean)
        mode = ("gives the posterior's mode: a pipeline asks for a sample", mean)
        if "moments" not in vae.capabilities:
            return [mode]
        logvar = _numpy(posterior.logvar).clip(-30, 20)
        # diffusers draws noise in the dtype of the moments; a wrapper may compute in float32 throughout.
        noises = [_noise(mean.shape, dtype) for dtype in dict.fromkeys((vae.dtype, "float32"))]
        return [
            *(("", mean + np.exp(logvar / 2) * noise) for noise in noises), mode,
            *(("takes the variance for a standard deviation", mean + np.exp(logvar) * noise) for noise in noises),
        ]  # fmt: skip

    before = [
        RIGHT,
        Way("maps its video from [-1, 1] to [0, 1]: the VAE takes it in [-1, 1]", lambda x: (x + 1) / 2),
        Way(f"maps its video from [0, 1] to [-1, 1], where it is already: {ITSELF}", lambda x: 2 * x - 1),
    ]  # fmt: skip
    after = [
        RIGHT,
        Way(f"multiplies latents by the scaling factor: {ITSELF}", lambda z: z * factor),
        Way("divides latents by the scaling factor: a pipeline multiplies them by it", lambda z: z / factor),
    ]
    return Call("encode", rng.uniform(-1, 1, (*VIDEO, vae.config.in_channels)), own, before, after)


def _noise(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """What diffusers draws for moments of a channel-last shape, channel-last."""
    generator = torch.Generator().manual_seed(SEED)
    drawn = torch.randn((shape[0], shape[-1], *shape[1:-1]), generator=generator, dtype=getattr(torch, dtype))
    return drawn.movedim(1, -1).double().numpy()


def _of_call(wrapper: Any, call: Call, dtype: str, bar: float) -> list[Finding]:
    """What an answer shows: the fewest things that, done to the VAE's own, give it to rounding."""
    known = [
        ([one for one in (before.says, says, after.says, _order("gives", gives, "takes")) if one],
         arranged(after.change(answer), gives))
        for before in call.before
        for says, answer in call.own(before.change(call.clip))
        for after, gives in itertools.product(call.after, ORDERS)
    ]  # fmt: skip
    known.sort(key=lambda row: len(row[0]))
    failed, off = None, np.inf
    for takes in ORDERS:
        try:
            found = _called(wrapper, call, takes, dtype)
        except NotTaken:
            return []
        except Exception as error:  # whatever a wrapper raises is about the wrapper
            failed = error if takes == HANDED else failed
            continue
        rows = [(words, _apart(found, expected)) for words, expected in known]
        if takes == HANDED:
            off = min((apart for words, apart in rows if not words), default=np.inf)
        for words, apart in rows:
            if apart <= bar:
                words = [*filter(None, [_order("takes", takes, "hands over")]), *words]
                return [_of_words(call.operation, one, len(words) - 1, apart, off) for one in words]
    if failed:
        return [_finding("raises", f"{NAME}: {call.operation}", f"{failed}.", call.operation)]
    if known[0][0]:
        return []  # how wide the posterior is was not told
    headline = f"The pipeline wrapper's {call.operation} gives another answer than the port's own {call.operation}"
    return [_finding("outside", f"{NAME}: {call.operation}", f"{headline}: {_off(off)}.", call.operation)]


def _order(does: str, layout: str, pipeline: str) -> str:
    return "" if layout == HANDED else f"{does} {spelled(layout)}: a pipeline {pipeline} {spelled(HANDED)}"


def _of_words(operation: Operation, words: str, others: int, apart: float, off: float) -> Finding:
    line = f"The port's own {operation} with that{' and the others' if others else ''} done to it gives the wrapper's "
    line += f"answer to {number(apart)}; without, it is {_off(off)}."
    cause = f"{NAME}: {operation} {words.partition(':')[0]}"
    return _finding("signature", cause, f"The pipeline wrapper's {operation} {words}.", operation, line)


def _off(off: float) -> str:
    return "of another shape" if off == np.inf else f"off by {number(off)} of the largest value"


def _called(wrapper: Any, call: Call, layout: str, dtype: str) -> np.ndarray:
    clip = arrays.to_torch(arranged(call.clip, layout).astype(arrays.DTYPES[dtype]))
    if call.operation == "decode":
        return _numpy(wrapper.decode(clip).sample)
    return _numpy(wrapper.encode(clip).latent_dist.sample(torch.Generator().manual_seed(SEED)))


def _apart(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest error over the largest value; infinite where shapes differ or numbers are none."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return np.inf
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _numpy(array: Any) -> np.ndarray:
    return arrays.to_numpy(array).astype(np.float64)


def _finding(kind: Kind, cause: str, headline: str, operation: str = "", *evidence: str) -> Finding:
    return Finding(
        kind=kind, cause=cause, headline=headline, operations=(operation,) if operation else (), about="pipeline",
        evidence=evidence,
    )  # fmt: skip
