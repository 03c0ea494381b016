"""VideoVAE: what every backend is. Checks, frame batches, tiles, slices and streams are the same for all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from twinvae import arrays
from twinvae.capabilities import CAPABILITIES, Capability
from twinvae.config import VAEConfig
from twinvae.forms import WHOLE, Form
from twinvae.frames import DECODED_TOGETHER, ENCODED_TOGETHER, continued_batches, frame_batches
from twinvae.posterior import Posterior
from twinvae.tiles import TILE_SETTINGS, Operation, TileGrid, TileSettings, checked_setting, run_tiles

Cache = Any  # a backend's own tree of arrays: for every causal convolution, the last frames that it has seen
Array = Any  # NumPy's or JAX's; torch's are accepted
Video = Float[Any, "b t h w c"]
Latents = Float[Any, "b t h w c"]


@dataclass(frozen=True)
class ConvCache(arrays.Pickled):
    """What a stream needs to go on: the conv cache after its last frame batch, and what it belongs to.

    Args:
        operation: "encode" or "decode".
        backend: the backend that made it.
        checkpoint: fingerprint of its weights.
        frame: batch, height and width of its input, then its dtype.
        grid: the frame's tiles; None when it is not tiled.
        tiles: one tree of arrays per tile, row by row; a single one when the frame is not tiled.
        devices: that shared clips, time and rows.
    """

    operation: Operation
    backend: str
    checkpoint: str
    frame: tuple[int, int, int, str]
    grid: TileGrid | None
    tiles: tuple[Cache, ...]
    devices: tuple[int, int, int] = (1, 1, 1)


class FrameStream(arrays.Pickled, Iterator):
    """Chunks of a clip, one frame batch at a time; `cache` continues after the last chunk that was given out.

    Iterating to the end gives the frames of `encode(...)` (as moments) or `decode(...)`, in order.
    """

    _operation: Operation
    _form: Form

    def __init__(self, vae: VideoVAE, operation: Operation, clip: Video, cache: ConvCache | None):
        self._vae, self._operation, self._clip = vae, operation, clip
        self._frame = (clip.shape[0], *clip.shape[2:4], vae.dtype)
        self._form, self._grid = vae.layout(operation, clip, together=True)
        if cache is not None:
            self._check(cache)
        self._batches = vae.schedule(operation, clip.shape[1], continued=cache is not None)
        self._tiles: list[Cache] = [] if cache is None else list(cache.tiles)

    def _check(self, cache: ConvCache) -> None:
        expected = (self._operation, self._vae.backend, self._vae.checkpoint, self._frame, self._vae.devices)
        found = (cache.operation, cache.backend, cache.checkpoint, cache.frame, cache.devices)
        names = ("operation", "backend", "checkpoint", "(batch, height, width, dtype)", "mesh (clips, time, rows)")
        for name, want, have in zip(names, expected, found, strict=True):
            if want != have:
                raise ValueError(
                    f"this conv cache cannot be resumed here: its {name} is {have}, expected {want}; "
                    "pass the cache of the same clip's last chunk, or None to start a new clip"
                )
        if cache.grid != self._grid:
            raise ValueError(
                f"this conv cache is of {_tiling(cache.grid)}, and the stream of {_tiling(self._grid)}: "
                "resume with the tiling that the cache was made with"
            )
        tiles = 1 if self._grid is None else len(self._grid.rows.slices) * len(self._grid.columns.slices)
        if len(cache.tiles) != tiles:
            raise ValueError(
                f"this conv cache holds {len(cache.tiles)} tiles and the stream has {tiles}: "
                "resume with the tiling that the cache was made with"
            )

    @property
    def cache(self) -> ConvCache | None:
        """The conv cache after the last chunk; None before the first."""
        if not self._tiles:
            return None
        made_by = self._operation, self._vae.backend, self._vae.checkpoint
        return ConvCache(*made_by, self._frame, self._grid, tuple(self._tiles), self._vae.devices)

    def __next__(self) -> Video:
        if not self._batches:
            raise StopIteration
        frames = self._clip[:, self._batches[0]]
        done: list[Cache] = []

        def run_tile(tile: Video) -> Video:
            carried = self._tiles[len(done)] if self._tiles else None
            out, cache = self._vae.run_frame_batch(self._operation, tile, carried, self._form)
            done.append(cache)
            return out

        chunk = self._vae.over_tiles(self._grid, frames, run_tile)
        self._tiles = done  # only now: after an error, the same frame batch can be asked for again
        del self._batches[0]
        return chunk


class VideoVAE(ABC):
    """CogVideoX's video VAE. Arrays are channel-last, [batch, time, height, width, channel].

    Videos are floats in [-1, 1], latents are raw (a pipeline multiplies by `config.scaling_factor`). NumPy, JAX and
    torch arrays are accepted; JAX arrays come back, NumPy from the PyTorch reference.

    Args:
        config: the architecture.
        dtype: "float64", "float32" or "bfloat16", of weights and activations.
        checkpoint: fingerprint of the weights.

    Attributes:
        backend: its name.
        capabilities: what it can do (see `twinvae.capabilities`); suites judge it on that.
        devices: that share clips, time and rows of a call.
    """

    backend: str
    capabilities: frozenset[Capability] = CAPABILITIES
    devices: tuple[int, int, int] = (1, 1, 1)

    def __init__(self, config: VAEConfig, dtype: str, checkpoint: str):
        arrays.checked_dtype(dtype)
        self.config = config
        self.dtype = dtype
        self.checkpoint = checkpoint
        self.num_sample_frames_batch_size = ENCODED_TOGETHER
        self.num_latent_frames_batch_size = DECODED_TOGETHER
        self.use_slicing = False
        self.use_tiling = False
        self.tile_settings = TileSettings.of(config)

    # What a backend supplies

    @abstractmethod
    def run_frame_batch(
        self,
        operation: Operation,
        frames: Video,
        cache: Cache | None,
        form: Form = WHOLE,
        spent: bool = False,
        last: bool = False,
    ) -> tuple[Video, Cache]:
        """Put one frame batch through the encoder (giving moments) or the decoder, and hand the conv cache on.

        Args:
            form: how, where a backend has more ways than one.
            spent: nobody needs the conv cache that goes in any more.
            last: nor that which comes out, so that it may be left out.
        """

    @abstractmethod
    def concatenate(self, parts: list[Video], axis: int) -> Video:
        """Join arrays of this backend."""

    @abstractmethod
    def blend(self, tile: Video, neighbour: Video, extent: int, axis: int) -> Video:
        """Blend the first `extent` cells of a tile with the last ones of its neighbour (see `twinvae.jax.tiling`)."""

    @abstractmethod
    def state_dict(self) -> dict[str, np.ndarray]:
        """Every tensor by diffusers' name, in diffusers' layout and this VAE's dtype."""

    @abstractmethod
    def activations(self, operation: Operation, clip: Video) -> dict[str, Video]:
        """The output of every block by diffusers' module name, in the order of computation.

        The frame batches' outputs are joined along time. Nothing is tiled or sliced.

        Args:
            operation: "encode" or "decode".
            clip: video or latents.
        """

    @abstractmethod
    def gradients(self, video: Video, cotangent: Video) -> dict[str, np.ndarray]:
        """Gradients of `sum(cotangent * decode(encode(video).mode()))`.

        Returns:
            The gradient of every tensor by diffusers' name and layout, and of the video as "video", channel-last.
        """

    # What every backend does

    def encode(self, video: Video) -> Posterior:
        """Encode a video into a posterior over latents.

        Args:
            video: [b, t, h, w, in_channels] in [-1, 1]; any t of at least 1, h and w of at least one latent cell.
        Raises:
            ValueError: wrong rank, channels, dtype or size; the message says what was found and expected.
        """
        return Posterior(self._run("encode", self.checked("encode", video)))

    def decode(self, latents: Latents) -> Video:
        """Decode raw latents [b, t, h, w, latent_channels] into a video; diffusers does not clip it, nor do we.

        Raises:
            ValueError: wrong rank, channels, dtype or size; the message says what was found and expected.
        """
        return self._run("decode", self.checked("decode", latents))

    def __call__(self, video: Video, sample_posterior: bool = False, key: int | Array | None = None) -> Video:
        """Encode, then decode the posterior's mode, or a sample drawn with `key`.

        Raises:
            ValueError: `sample_posterior` without a key.
        """
        posterior = self.encode(video)
        if not sample_posterior:
            return self.decode(posterior.mode())
        if key is None:
            raise ValueError("sample_posterior=True needs a key: pass key=0, or a JAX random key")
        return self.decode(posterior.sample(key))

    def encode_stream(self, video: Video, cache: ConvCache | None = None) -> FrameStream:
        """Encode a frame batch at a time: moments [b, t, h, w, 2 * latent_channels] as they are made.

        Raises:
            ValueError: bad input, or a cache of another clip shape, checkpoint, backend or operation.
        """
        return FrameStream(self, "encode", self.checked("encode", video), cache)

    def decode_stream(self, latents: Latents, cache: ConvCache | None = None) -> FrameStream:
        """Decode a frame batch at a time: video frames as they are made.

        Raises:
            ValueError: bad input, or a cache of another clip shape, checkpoint, backend or operation.
        """
        return FrameStream(self, "decode", self.checked("decode", latents), cache)

    def enable_tiling(
        self,
        tile_sample_min_height: int | None = None,
        tile_sample_min_width: int | None = None,
        tile_overlap_factor_height: float | None = None,
        tile_overlap_factor_width: float | None = None,
    ) -> None:
        """Encode and decode frames larger than a tile in overlapping, blended tiles; None keeps a setting.

        An overlap of 0 means none here (diffusers' own method reads it as "keep").

        Raises:
            ValueError: overlaps outside [0, 1), tiles below one latent cell or with no room beside their overlap.
        """
        wanted = {
            "tile_sample_min_height": tile_sample_min_height,
            "tile_sample_min_width": tile_sample_min_width,
            "tile_overlap_factor_height": tile_overlap_factor_height,
            "tile_overlap_factor_width": tile_overlap_factor_width,
        }
        given = {name: checked_setting(name, value) for name, value in wanted.items() if value is not None}
        tiles = replace(self.tile_settings, **given, tile_latent_min_height=None, tile_latent_min_width=None)
        tiles.grid("decode", 1, 1, self.config.spatial_compression)
        self.tile_settings = tiles
        self.use_tiling = True

    def disable_tiling(self) -> None:
        self.use_tiling = False

    def enable_slicing(self) -> None:
        """Encode and decode one batch item at a time."""
        self.use_slicing = True

    def disable_slicing(self) -> None:
        self.use_slicing = False

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and safetensors that diffusers' `from_pretrained` reads back bit for bit."""
        from twinvae.checkpoint import write_checkpoint

        write_checkpoint(folder, self.config, self.state_dict())

    def as_diffusers(self) -> Any:
        """A drop-in for `pipe.vae`: torch in, torch out, [batch, channel, time, height, width]."""
        adapter = import_module("twinvae.torch.adapter")  # by name: nothing here needs torch
        return adapter.DiffusersVAE(self)

    # How it is done

    def checked(self, operation: Operation, clip: Video) -> Video:
        encode = operation == "encode"
        return arrays.checked(
            clip,
            "video" if encode else "latents",
            self.config.in_channels if encode else self.config.latent_channels,
            arrays.DTYPES[self.dtype],
            least=self.config.spatial_compression if encode else 1,
        )

    def frame_batch_size(self, operation: Operation) -> int:
        return self.num_sample_frames_batch_size if operation == "encode" else self.num_latent_frames_batch_size

    def schedule(self, operation: Operation, frames: int, continued: bool = False) -> list[slice]:
        """What is run at once of a clip, one after the other: its frame batches.

        Raises:
            ValueError: frames that go on from a conv cache and are no whole number of batches.
        """
        return (continued_batches if continued else frame_batches)(frames, self.frame_batch_size(operation))

    def _run(self, operation: Operation, clip: Video) -> Video:
        batches = self.schedule(operation, clip.shape[1])
        form, grid = self.layout(operation, clip)

        def run_tile(tile: Video) -> Video:
            parts, cache = [], None
            for batch in batches:
                part, cache = self.run_frame_batch(
                    operation, tile[:, batch], cache, form, spent=True, last=batch == batches[-1]
                )
                parts.append(part)
            return self.concatenate(parts, axis=1)

        items = [clip]
        if self.use_slicing and clip.shape[0] > 1:
            items = [clip[index : index + 1] for index in range(clip.shape[0])]
        outputs = [self.over_tiles(grid, item, run_tile) for item in items]
        return outputs[0] if len(outputs) == 1 else self.concatenate(outputs, axis=0)

    def layout(self, operation: Operation, clip: Video, together: bool = False) -> tuple[Form, TileGrid | None]:
        """The form of every step of a call, and its tiles.

        Args:
            together: the clips of a batch go through together, whatever `use_slicing` says: those of a stream do.
        """
        return WHOLE, self.grid(operation, clip.shape)

    def grid(self, operation: Operation, shape: tuple[int, ...]) -> TileGrid | None:
        """The tiles of a clip's frames; None when they are not tiled."""
        return self.possible_grid(operation, shape) if self.use_tiling else None

    def possible_grid(self, operation: Operation, shape: tuple[int, ...]) -> TileGrid | None:
        """The tiles of a clip's frames as the settings have them; None when a frame is no larger than a tile."""
        height, width = shape[2:4]
        compression = self.config.spatial_compression
        if not self.tile_settings.needs_tiles(operation, height, width, compression):
            return None
        return self.tile_settings.grid(operation, height, width, compression)

    def over_tiles(self, grid: TileGrid | None, clip: Video, run_tile: Callable[[Video], Video]) -> Video:
        """Apply `run_tile` to the clip, or to its tiles in row order, blended."""
        if grid is None:
            return run_tile(clip)
        return run_tiles(clip, grid, run_tile, self.blend, self.concatenate)


def _tile_setting(name: str) -> property:
    """One of the tile settings as an attribute, which is how diffusers has it."""

    def read(vae: VideoVAE) -> float:
        return getattr(vae.tile_settings.in_cells(vae.config.spatial_compression), name)

    def write(vae: VideoVAE, value: float) -> None:
        own = vae.tile_settings.in_cells(vae.config.spatial_compression)
        vae.tile_settings = replace(own, **{name: checked_setting(name, value)})

    return property(read, write, doc=f"`{name}` of the tile settings; nothing else changes with it.")


for _name in TILE_SETTINGS:
    setattr(VideoVAE, _name, _tile_setting(_name))


def _tiling(grid: TileGrid | None) -> str:
    if grid is None:
        return "frames without tiles"
    (rows, *_), (columns, *_) = grid
    largest = f"{rows[0].stop}x{columns[0].stop}"
    blended = f"{grid.rows.blend_extent}x{grid.columns.blend_extent}"
    return f"{len(rows)}x{len(columns)} tiles of {largest}, {blended} blended"
