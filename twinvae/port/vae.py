"""PortVAE: a port's object as a backend, asked in its own process; nothing that it gives was computed here."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from twinvae import arrays
from twinvae.capabilities import Capability
from twinvae.config import VAEConfig
from twinvae.frames import DECODED_TOGETHER, ENCODED_TOGETHER
from twinvae.interface import Cache, Operation, Video, VideoVAE
from twinvae.port.errors import NotTaken, PortGave, PortTimedOut
from twinvae.port.layouts import CHANNEL_LAST, arranged, channel_last
from twinvae.port.process import Process
from twinvae.port.wrapper import Wrapper
from twinvae.posterior import Posterior

VIDEO = (-1.0, 1.0)  # the range of a video
CALL_LIMIT = 120.0  # seconds; see `Budget`
NUMBERS = itertools.count()


@dataclass
class Ways:
    """How a port is given clips, and what it takes.

    Attributes:
        takes, gives: layouts of what goes in, and of what comes out by operation.
        kind: of arrays: jax, numpy or torch.
        value_range: of videos.
        sizes: what heights and widths of a video have to be multiples of.
        items: how many clips it takes together at most; None: any number.
        frames: of a video, all that it takes; None: any number.
        moments: whether it gives the log-variance.
    """

    takes: str = CHANNEL_LAST
    gives: dict[str, str] = field(default_factory=lambda: {"encode": CHANNEL_LAST, "decode": CHANNEL_LAST})
    kind: str = "jax"
    value_range: tuple[float, float] = (-1.0, 1.0)
    sizes: int = 1
    items: int | None = None
    frames: tuple[int, ...] | None = None
    moments: bool = True


class Budget:
    """Seconds that a call of a port may take, and all calls of one of its methods together.

    A method that ran past the first twice, or has spent the second, is not asked again: what it gave until then is
    judged.

    Attributes:
        call: a call's; all of a method have CALLS times that.
    """

    MOST_TIMED_OUT, CALLS = 2, 5

    def __init__(self, call: float = CALL_LIMIT):
        self.call = call
        self._spent: Counter[str] = Counter()
        self._timed_out: Counter[str] = Counter()

    def spend(self, method: str, run: Callable[[], Any]) -> Any:
        """Run a call of a method, and note how long it took."""
        began = time.monotonic()
        try:
            return run()
        except PortTimedOut:
            self._timed_out[method] += 1
            raise
        finally:
            self._spent[method] += time.monotonic() - began  # type: ignore[assignment]  # Counter adds any numbers

    def restart(self) -> None:
        """Begin anew: what was spent on trying the port is not the tests'."""
        self._spent.clear()
        self._timed_out.clear()

    def check(self, method: str) -> None:
        """Whether a method may be asked.

        Raises:
            NotTaken: it has had its time.
        """
        if self._timed_out[method] >= self.MOST_TIMED_OUT:
            raise NotTaken(f"{method} ran past {self.call:g} s twice and is not asked again (--time-limit)")
        if self._spent[method] >= self.call * self.CALLS:
            raise NotTaken(
                f"{method} has taken {self.call * self.CALLS:g} s in all and is not asked again (--time-limit)"
            )


class ModeAlone(Posterior):
    """Of a port that gives no log-variance: moments that are the mean alone."""

    @property
    def mean(self) -> Any:
        return self.moments

    @property
    def logvar(self) -> Any:
        raise NotTaken("it gives latents alone, without a log-variance")

    std = logvar


class PortVAE(VideoVAE):
    """A port's object. Frame batches, tiles, blends and slices are its own; settings are handed to it.

    Args:
        label: its name in records.
        failed: what the first call that tried it raised, if it did.
        process, budget: of the port, shared by all of its objects.
        given: what it is built from, for its process.
        compile: whether `jax.jit` is put around `encode` and `decode`.
    """

    def __init__(
        self, label: str, process: Process, budget: Budget, ways: Ways, config: VAEConfig, dtype: str, checkpoint: str,
        given: dict[str, Any], compile: bool, capabilities: frozenset[Capability],
    ):  # fmt: skip
        super().__init__(config, dtype, checkpoint)
        self.backend, self.capabilities = label, capabilities
        self.ways = ways
        self._process, self.budget, self._given, self._compile = process, budget, given, compile
        self._number, self._built_in = next(NUMBERS), 0
        self.failed: Exception | None = None

    def inspected(self) -> list[str]:
        """The capabilities that the object has by its methods; builds it where it is not built."""
        self._process.started()
        self._built_in = self._process.generation
        return self._process.ask(
            "build", "building it", max(self.budget.call, CALL_LIMIT), number=self._number, dtype=self.dtype,
            compile=self._compile, **self._given,
        )  # fmt: skip

    def ask(self, request: str, method: str, **given: Any) -> Any:
        """Ask the object something, within its budget; where its process has ended, it is built anew first."""
        with self._process.turn:  # what a thread waits for another is none of its time
            self.budget.check(method)
            self._process.started()
            if self._built_in != self._process.generation:
                self.inspected()
            return self.budget.spend(
                method, lambda: self._process.ask(request, method, self.budget.call, number=self._number, **given)
            )

    def raw(self, operation: Operation, clip: np.ndarray) -> dict[str, np.ndarray]:
        """What a call returns, in the port's own layout; the clip is channel-last and in [-1, 1]."""
        return self.ask(
            "run", operation, operation=operation, clip=self._put(operation, clip), kind=self.ways.kind,
            settings=self._settings(),
        )  # fmt: skip

    def _put(self, operation: Operation, clip: np.ndarray) -> np.ndarray:
        """A clip as the port takes it: in its range, its axes in its order."""
        clip = _scaled(clip, VIDEO, self.ways.value_range) if operation == "encode" else clip
        return arranged(clip, self.ways.takes)

    def _got(self, operation: Operation, found: np.ndarray) -> np.ndarray:
        """What the port gives, channel-last, a video in [-1, 1]."""
        found = channel_last(found, self.ways.gives[operation])
        return _scaled(found, self.ways.value_range, VIDEO) if operation == "decode" else found

    def encode(self, video: Video) -> Posterior:
        posterior = super().encode(video)
        return posterior if self.ways.moments else ModeAlone(posterior.moments)

    def _run(self, operation: Operation, clip: Video) -> Video:
        clip = arrays.to_numpy(clip)
        self._check_taken(operation, clip.shape)
        parts = self.raw(operation, clip)
        found = {name: self._got(operation, part) for name, part in parts.items()}
        if operation == "decode":
            return found["video"]
        if "moments" in found:
            return found["moments"]
        if "logvar" not in found:
            return found["mean"]
        if found["mean"].shape != found["logvar"].shape:
            shapes = " and ".join(str(part.shape) for part in found.values())
            raise PortGave(f"encode returned mean and logvar of shapes {shapes}: expected the same")
        return np.concatenate([found["mean"], found["logvar"]], axis=-1)

    def _check_taken(self, operation: Operation, shape: tuple[int, ...]) -> None:
        ways = self.ways
        if ways.items is not None and shape[0] > ways.items:
            raise NotTaken(f"it takes {ways.items} clip{'s' if ways.items > 1 else ''} at a time, not {shape[0]}")
        scale = 1 if operation == "encode" else self.config.spatial_compression
        if shape[2] * scale % ways.sizes or shape[3] * scale % ways.sizes:
            raise NotTaken(f"it takes heights and widths that are multiples of {ways.sizes}, not {shape[2]}x{shape[3]}")
        if operation == "encode" and ways.frames is not None and shape[1] not in ways.frames:
            raise NotTaken(f"it takes {', '.join(map(str, ways.frames))} frames, not {shape[1]}")

    def _settings(self) -> dict[str, Any]:
        default = (ENCODED_TOGETHER, DECODED_TOGETHER)
        sizes = (self.num_sample_frames_batch_size, self.num_latent_frames_batch_size)
        lacking = {"batches": sizes != default, "tiling": self.use_tiling, "slicing": self.use_slicing}
        for capability, asked in lacking.items():
            if asked and capability not in self.capabilities:
                raise NotTaken(f"it has no {capability} that can be set")
        tiles = {name: value for name, value in vars(self.tile_settings).items() if value is not None}
        return {
            "num_sample_frames_batch_size": sizes[0], "num_latent_frames_batch_size": sizes[1],
            "use_tiling": self.use_tiling, "use_slicing": self.use_slicing, "tiles": tiles,
        }  # fmt: skip

    def _method(self, name: str, *given: Any) -> Any:
        return self.ask("method", name, name=name, given=given, kind=self.ways.kind, settings=self._settings())

    def state_dict(self) -> dict[str, np.ndarray]:
        return self._method("state_dict")

    def save_pretrained(self, folder: str | Path) -> None:
        """The port's own."""
        self.ask("save", "save_pretrained", folder=str(Path(folder).resolve()))

    def as_diffusers(self) -> Wrapper:
        """The port's own pipeline wrapper, which stays in its process."""
        return Wrapper(self.ask("wrapper", "as_diffusers"), self._ask_wrapper)

    def is_wrapper(self) -> bool:
        """Whether the object stands in the place of a pipeline's VAE as it is."""
        return self.ask("is_wrapper", "config")

    def _ask_wrapper(self, operation: Operation, clip: np.ndarray, state: np.ndarray | None) -> Any:
        return self.ask(
            "call_wrapper", f"{operation} of the pipeline wrapper", operation=operation, clip=clip, state=state,
            settings=self._settings(),
        )  # fmt: skip

    def activations(self, operation: Operation, clip: Video) -> dict[str, Video]:
        clip = self._put(operation, arrays.to_numpy(self.checked(operation, clip)))
        found = self._method("activations", operation, clip)
        return {name: channel_last(activation, self.ways.takes) for name, activation in found.items()}

    def gradients(self, video: Video, cotangent: Video) -> dict[str, np.ndarray]:
        low, high = self.ways.value_range
        scale = arrays.DTYPES[self.dtype].type((high - low) / 2)  # of a video in the port's range over one in ours
        clip = self._put("encode", arrays.to_numpy(self.checked("encode", video)))
        of_output = arrays.to_numpy(cotangent).astype(arrays.DTYPES[self.dtype]) / scale
        found = self._method("gradients", clip, arranged(of_output, self.ways.takes))
        return found | {"video": channel_last(found["video"], self.ways.takes) * scale} if "video" in found else found

    def encode_stream(self, video: Video, cache: Any = None) -> Iterator[Video]:  # type: ignore[override]
        return self._stream("encode", video, cache)

    def decode_stream(self, latents: Video, cache: Any = None) -> Iterator[Video]:  # type: ignore[override]
        return self._stream("decode", latents, cache)

    def _stream(self, operation: Operation, clip: Video, cache: Any) -> Iterator[Video]:
        """The chunks of the port's own stream; a conv cache does not leave its process."""
        if cache is not None:
            raise NotTaken("its conv caches stay in its process")
        clip = arrays.to_numpy(self.checked(operation, clip))
        chunks = self._method(f"{operation}_stream", self._put(operation, clip))
        if not isinstance(chunks, list) or not all(isinstance(chunk, np.ndarray) for chunk in chunks):
            raise PortGave(f"{operation}_stream gave no arrays: expected an iterator over chunks of frames")
        return (self._got(operation, chunk) for chunk in chunks)

    def __del__(self) -> None:
        self._process.dropped.append(self._number)

    # A port's loops are its own: there is no frame batch, join or blend of it to be had alone.

    def run_frame_batch(self, operation: Operation, frames: Video, cache: Cache | None, *_: Any, **__: Any) -> Any:
        raise NotTaken("its frame batches are its own")

    def concatenate(self, parts: list[Video], axis: int) -> Video:
        return np.concatenate(parts, axis)

    def blend(self, tile: Video, neighbour: Video, extent: int, axis: int) -> Video:
        raise NotTaken("its blends are its own")


def _scaled(clip: np.ndarray, before: tuple[float, float], after: tuple[float, float]) -> np.ndarray:
    """Values of one range in another, in the clip's own dtype."""
    if before == after:
        return clip
    factor = (after[1] - after[0]) / (before[1] - before[0])
    return ((clip - clip.dtype.type(before[0])) * clip.dtype.type(factor) + clip.dtype.type(after[0])).astype(
        clip.dtype
    )
