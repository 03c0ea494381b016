"""Operators that this backend lowers itself: for each, what TorchAx does, what is done here, and what it gained.

diffusers' frames are [b, c, t, h, w]; XLA's CPU convolutions want them channel-last. So every operator that frames pass
through is written channel-last between two transpositions: in a compiled program those of one operator and of the next
cancel. Of 132 transpositions in the tiny decoder none is left; in the encoder, 10 of temporal pooling.

Times are of 2 CPU cores, float32, with [1, 128, 8, 96, 160] where no shape is given. Errors are the tiny preset's mean
absolute error in bfloat16 against float32, over that of diffusers in bfloat16 on torch: 1.44 to encode and 1.21 to
decode with TorchAx's own lowerings, 1.04 and 0.92 with all of these.

Each lowering is compiled on its own, so that running op by op means one program per operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from itertools import zip_longest
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.core import Tracer
from jaxtyping import Array, Float

from twinvae.jax.compiling import on_gpu, traced_for
from twinvae.jax.convolution import convolve2d, convolve3d, in_pieces
from twinvae.jax.moments import channel_moments
from twinvae.jax.shards import Shard, beside, held, in_rows, padded_rows
from twinvae.jax.slabs import HALO, ROWS, Slabs, axis_major, cut, fill, with_halo


class Enlarged(NamedTuple):
    """Frames that repeat the cells of smaller ones.

    Args:
        small: the smaller ones, channel-last.
        cells: along each axis of [*space], the cell of `small` that every cell is.
    """

    frames: Array
    small: Float[Array, "b *space c"]
    cells: tuple[np.ndarray, ...]

    def enlarge(self, small: Float[Array, "b *space any"]) -> Float[Array, "b *larger any"]:
        """Any frames of the size of `small`, as these were enlarged."""
        for axis, cells in enumerate(self.cells, start=1):
            small = _repeated(small, axis, cells)
        return small


_slabs: ContextVar[Slabs | None] = ContextVar("slabs", default=None)
_enlarged: ContextVar[dict[int, Enlarged] | None] = ContextVar("enlarged", default=None)


@contextmanager
def convolving_in(slabs: Slabs | None) -> Iterator[None]:
    """What is traced within convolves a slab at a time; all of a frame at once where `slabs` is None."""
    tokens = _slabs.set(slabs), _enlarged.set({})
    try:
        yield
    finally:
        _slabs.reset(tokens[0])
        _enlarged.reset(tokens[1])


def enlarged(frames: Array) -> Enlarged | None:
    """What these very frames were enlarged from; None where they were not, and in a program for a TPU."""
    known = _enlarged.get()
    return known.get(id(frames)) if known is not None and traced_for() != "tpu" else None


def _remember(frames: Array, small: Array, cells: Sequence[np.ndarray]) -> Array:
    if (known := _enlarged.get()) is not None and _is_passing(frames):
        known[id(frames)] = Enlarged(frames, small, tuple(cells))  # with the frames, whose id is nobody else's then
    return frames


def channels_last(x: Float[Array, "b c *space"]) -> Float[Array, "b *space c"]:
    return jnp.moveaxis(x, 1, -1)


def channels_second(x: Float[Array, "b *space c"]) -> Float[Array, "b c *space"]:
    return jnp.moveaxis(x, -1, 1)


def kernel_last(kernel: Float[Array, "o i *window"]) -> Float[Array, "*window i o"]:
    return jnp.moveaxis(kernel, (0, 1), (-1, -2))


def kernel_first(kernel: Float[Array, "*window i o"]) -> Float[Array, "o i *window"]:
    return jnp.moveaxis(kernel, (-1, -2), (0, 1))


def group_norm(
    x: Float[Array, "b c *space"],
    weight: Float[Array, " c"] | None,
    bias: Float[Array, " c"] | None,
    batch: int,
    channels: int,
    cells: int,
    groups: int,
    eps: float,
) -> tuple[Array, Array, Array]:
    """`aten.native_group_norm`: the output, and mean and reciprocal deviation per group.

    TorchAx maps over batch times groups, and computes bfloat16 in bfloat16. Here all groups are reduced at once, with
    statistics and affine in float32 at least, as torch does. Op by op 43 ms instead of 260 (0.7 instead of 128 for
    [1, 512, 3, 12, 20]); compiled the same in float32, 45 ms instead of 90 in bfloat16. Without it the error of
    encoding is 1.28.
    """
    return _group_norm(x, weight, bias, groups=groups, eps=eps, gpu=on_gpu(), shard=held())


@partial(jax.jit, static_argnames=("groups", "eps", "gpu", "shard"))
def _group_norm(
    x: Array, weight: Array | None, bias: Array | None, *, groups: int, eps: float, gpu: bool, shard: Shard | None
) -> Any:
    channels = x.shape[1]
    precise = channels_last(x).astype(_precise(x))
    space = tuple(range(1, precise.ndim - 1))

    def per_group(of_channels: Float[Array, "b c"]) -> Float[Array, "b g"]:
        return of_channels.reshape(len(of_channels), groups, -1).mean(-1)

    def spread(statistic: Float[Array, "b g"]) -> Float[Array, "b *1 c"]:
        return jnp.expand_dims(jnp.repeat(statistic, channels // groups, axis=1), space)

    if shard:
        mean, variance = (per_group(statistic.reshape(len(x), -1)) for statistic in shard.moments(
            precise, lambda of_channels: jnp.repeat(per_group(of_channels), channels // groups, axis=1)))  # fmt: skip
        centred = precise - spread(mean)
    elif gpu:
        of_channels, within = channel_moments(precise)
        mean = per_group(of_channels)
        between = jnp.square(of_channels - jnp.repeat(mean, channels // groups, axis=1))
        variance, centred = per_group(within + between), precise - spread(mean)
    else:
        mean = per_group(precise.mean(space))
        centred = precise - spread(mean)
        variance = per_group(jnp.square(centred).mean(space))
    rstd = jax.lax.rsqrt(variance + eps)
    out = centred * (spread(rstd) if weight is None else spread(rstd) * weight.astype(precise.dtype))
    if bias is not None:
        out = out + bias.astype(precise.dtype)
    return channels_second(out.astype(x.dtype)), mean.astype(x.dtype), rstd.astype(x.dtype)


def convolution(
    x: Float[Array, "b i *space"],
    weight: Float[Array, "o i *kernel"],
    bias: Float[Array, " o"] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Float[Array, "b o *out"]:
    """`aten.convolution` in 2-D and 3-D, neither transposed nor grouped, dilated in time alone.

    TorchAx rounds a bfloat16 convolution before it adds the bias. Here both are done in float32 and rounded once, as
    torch does: without it the error of encoding is 1.16.

    In slabs (see `convolving_in`) 8 frames at 768x1360 decode in 18.8 GB by a v6e's compiler, in 34.9 without. The
    H100's keeps more of them at a time than they save: 9 frames take 34.0 GB of temporaries in slabs, 15.2 without.

    A convolution with a kernel of 1 runs before frames are enlarged, but not on a TPU: diffusers enlarges latents, then
    makes each norm's scale and shift of them, which as arrays are as large as the activation. An H100's program of 3
    latents at 480x720 takes 12.0 GB of temporaries with them, and 4.4 without.
    """
    if transposed or groups != 1 or any(factor != 1 for factor in dilation[-2:]):
        raise NotImplementedError("a convolution that is transposed, grouped or dilated in space: the VAE has none")
    slabs = None if on_gpu() else _slabs.get()
    settings = {"stride": tuple(stride), "padding": tuple(padding), "dilation": dilation[0], "slabs": slabs,
                "platform": traced_for(), "shard": in_rows()}  # fmt: skip
    pointwise = set(weight.shape[2:]) == {1} and set(stride) == {1} and not any(padding)
    if pointwise and (source := enlarged(x)):
        out = _convolution(channels_second(source.small), weight, bias, **settings)
        return channels_second(source.enlarge(channels_last(out)))
    return _convolution(x, weight, bias, **settings)


@partial(jax.jit, static_argnames=("stride", "padding", "dilation", "slabs", "platform", "shard"))
def _convolution(
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: int,
    slabs: Slabs | None,
    platform: str,  # what `traced_for` says, and `in_rows`: a trace is kept by its arguments
    shard: Shard | None,
) -> Array:
    frames, kernel = channels_last(x), kernel_last(weight)
    *time, height, width = padding
    if any(time):
        frames = jnp.pad(frames, ((0, 0), (time[0], time[0]), (0, 0), (0, 0), (0, 0)))

    def rounded(sums: Array) -> Array:
        return (sums if bias is None else sums + bias.astype(sums.dtype)).astype(x.dtype)

    def convolve(frames: Array, pads: tuple[int, int]) -> Array:
        frames, rows = padded_rows(frames, (pads[0], pads[0]))
        sides = rows, (pads[1], pads[1])
        if frames.ndim == 5:
            return rounded(convolve3d(frames, kernel, stride, sides, dilation))
        # diffusers sees to it that no 3-D convolution is too large, and not to this one.
        return in_pieces(lambda frames: rounded(convolve2d(frames, kernel, stride, sides)), frames, axis=0)

    if slabs is not None and set(stride) == {1} and set(kernel.shape[:-2]) == {1}:
        # As a product, in this layout and by itself: else XLA keeps float32 sums, or those of eight strips, in full.
        sums = jnp.matmul(frames, kernel.reshape(kernel.shape[-2:]), preferred_element_type=_precise(frames))
        out = jax.lax.optimization_barrier(axis_major(rounded(sums), _axis(frames, slabs)))
    elif slabs is not None and set(stride) == {1} and (height, width) == (HALO, HALO):
        out = _in_slabs(convolve, frames, slabs)
    else:
        out = convolve(frames, (height, width))
    return channels_second(out)


def _in_slabs(
    convolve: Callable[[Array, tuple[int, int]], Array], frames: Float[Array, "*b h w c"], slabs: Slabs
) -> Float[Array, "*b h w o"]:
    """A convolution with a kernel of 3 in space, a slab at a time.

    Args:
        convolve: takes frames, and by how many cells height and width are padded.
    """
    axis = _axis(frames, slabs)
    size, across = frames.shape[axis], (0, HALO) if slabs.axis == ROWS else (HALO, 0)

    def at(first: Array | int, cells: int) -> Array:
        slab = cut(frames, first, cells, axis)
        return shard.zero_filled(slab, first, size) if (shard := in_rows()) else slab

    beyond = beside(at, size)

    def run(first: Array | int, cells: int, there: Array) -> Array:
        slab = with_halo(at, first, cells, size, axis, beyond)
        return convolve(axis_major(slab, axis), across)

    whole = jax.eval_shape(lambda frames: convolve(frames, (HALO, HALO)), frames)
    cells = slabs.cells((1,) * (5 - frames.ndim) + frames.shape, frames.dtype.itemsize)
    return fill(jax.lax.empty(whole.shape, whole.dtype), size, cells, axis, run)


def _axis(frames: Float[Array, "*b h w c"], slabs: Slabs) -> int:
    """The axis that slabs are cut along, of frames that may lack that of time."""
    return slabs.axis - (5 - frames.ndim)


def upsample_nearest(x: Float[Array, "b c *space"], size: Sequence[int], *scales: float | None) -> Array:
    """`aten.upsample_nearest2d` and `3d`; an axis whose scale is not given is stretched to its size.

    TorchAx runs torch's decomposition, which gathers by indices computed on the device. Here the factors of the VAE
    become a repetition, whose gradient is a sum instead of a scatter: 28 ms instead of 41 for [8, 128, 48, 80] to twice
    the size.
    """
    small = frames = channels_last(x)
    cells = [
        _source_cells(given, wanted, scale)
        for given, (wanted, scale) in zip(small.shape[1:-1], zip_longest(size, scales), strict=True)
    ]
    for axis, of_axis in enumerate(cells, start=1):
        frames = _repeated(frames, axis, of_axis)
    return _remember(channels_second(frames), small, cells)


def _source_cells(given: int, wanted: int, scale: float | None) -> np.ndarray:
    """The cell that each of the wanted ones repeats."""
    if wanted % given == 0 and (scale is None or scale == wanted // given):
        return np.arange(wanted) // (wanted // given)
    # torch too computes the source cell in float32, whatever the dtype (UpSample.h).
    step = np.float32(1 / scale if scale else given / wanted)
    source = np.floor(np.arange(wanted, dtype=np.float32) * step).astype(np.int32)
    return np.minimum(source, given - 1)


def _repeated(x: Array, axis: int, cells: np.ndarray) -> Array:
    """`x` at `cells` along an axis; a gather only where they are not repeated equally often."""
    repeats, rest = divmod(len(cells), x.shape[axis])
    if rest == 0 and np.array_equal(cells, np.arange(len(cells)) // repeats):
        return jnp.repeat(x, repeats, axis=axis)
    return jnp.take(x, cells, axis=axis)


def silu(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """`aten.silu`, in float32 at least, as torch does.

    TorchAx rounds the sigmoid to bfloat16 before the product. One ResNet block's error goes from 1.2 to 1.0, that of
    decoding from 1.05 to 0.92; that of encoding is 0.99 without it.
    """
    return _elementwise(_silu, x)


@jax.jit
def _silu(x: Array) -> Array:
    return jax.nn.silu(x.astype(_precise(x))).astype(x.dtype)


# What follows gives what TorchAx's own gives, and is here to be channel-last.


def add(x: Array | float, y: Array | float, *, alpha: float = 1) -> Array:
    """`aten.add.Tensor`."""
    return _elementwise(lambda x, y: x + (y if alpha == 1 else y * alpha), x, y)


def multiply(x: Array | float, y: Array | float) -> Array:
    """`aten.mul.Tensor`."""
    return _elementwise(lambda x, y: x * y, x, y)


def concatenate(parts: Sequence[Array], dim: int = 0) -> Array:
    """`aten.cat`, which leaves out parts that are empty and of one dimension."""
    parts = [part for part in parts if part.shape != (0,)]
    if not all(map(_is_passing, parts)):
        return jnp.concatenate(parts, dim)
    axis = _axis_last(dim, parts[0].ndim)
    frames = jnp.concatenate([channels_last(part) for part in parts], axis)
    if source := _joined_source(parts, axis):
        return _remember(channels_second(frames), *source)
    # On GPUs and CPUs XLA makes what a convolution sees twice where a conv cache is taken from it: without the frames
    # before it, and with them. A CPU's convolutions want it channel-last.
    if traced_for() == "cpu":
        return channels_second(jax.lax.optimization_barrier(frames))
    joined = channels_second(frames)
    return jax.lax.optimization_barrier(joined) if on_gpu() else joined


def _joined_source(parts: Sequence[Array], axis: int) -> tuple[Array, list[np.ndarray]] | None:
    """The small frames and the cells of parts that were all enlarged in one way, and are joined along an axis."""
    sources = [enlarged(part) for part in parts]
    if not all(sources) or not 0 < axis < parts[0].ndim - 1:
        return None
    starts = np.cumsum([0, *(source.small.shape[axis] for source in sources)])
    cells = [start + source.cells[axis - 1] for start, source in zip(starts, sources, strict=False)]
    before, after = sources[0].cells[: axis - 1], sources[0].cells[axis:]
    small = jnp.concatenate([source.small for source in sources], axis)
    return small, [*before, np.concatenate(cells), *after]


def take(x: Array, index: Any) -> Array:
    """`torch.Tensor.__getitem__`, for which TorchAx gives a view that can be written to."""
    cuts: Any = index if isinstance(index, tuple) else (index,)
    whole = len(cuts) > 1 and all(isinstance(cut, slice) for cut in cuts[:2])
    if not _is_passing(x) or not whole or not all(cut is None or isinstance(cut, slice | int) for cut in cuts):
        return x[index]
    first, channels, *space = cuts
    rest = [slice(None)] * (x.ndim - len([cut for cut in cuts if cut is not None]))
    return channels_second(channels_last(x)[(first, *space, *rest, channels)])


def view(x: Array, size: Sequence[int]) -> Array:
    """`aten.view`; what merges or splits clips and frames, [b, t, c, h, w], leaves [c, h, w] as they are."""
    merged = _is_passing(x) and len(size) in (4, 5) and tuple(size[-3:]) == x.shape[-3:]
    if not merged:
        return jnp.reshape(x, size)
    height_width_channels = (*size[:-3], *size[-2:], size[-3])
    return jnp.moveaxis(jnp.moveaxis(x, -3, -1).reshape(height_width_channels), -1, -3)


def pad(x: Array, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Array:
    """`torch.nn.functional.pad`; where devices share rows, the rows that are padded are the next device's."""
    sides = [(before, after) for before, after in zip(pad[-2::-2], pad[::-2], strict=True)]
    sides = [(0, 0)] * (x.ndim - len(sides)) + sides
    if in_rows():
        frames, sides[-2] = padded_rows(channels_last(x), sides[-2])
        x = channels_second(frames)
    given = {"constant_values": value} if mode == "constant" and value is not None else {}
    return jnp.pad(x, sides, mode="edge" if mode == "replicate" else mode, **given)


LOWERINGS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.native_group_norm.default: group_norm,
    torch.ops.aten.convolution.default: convolution,
    torch.ops.aten.silu.default: silu,
    torch.nn.functional.pad: pad,
    torch.ops.aten.upsample_nearest2d.default: upsample_nearest,
    torch.ops.aten.upsample_nearest3d.default: upsample_nearest,
    torch.ops.aten.add.Tensor: add,
    torch.ops.aten.mul.Tensor: multiply,
    torch.ops.aten.cat.default: concatenate,
    torch.Tensor.__getitem__: take,
    torch.ops.aten.view.default: view,
}


def _elementwise(function: Callable[..., Array], *values: Any) -> Array:
    """A function of single values, channel-last where all of them are frames."""
    if not all(map(_is_passing, values)) or len({value.ndim for value in values}) != 1:
        return function(*values)
    return channels_second(function(*map(channels_last, values)))


def _is_passing(x: Any) -> bool:
    """Whether these are frames in a program that is being traced; op by op, nothing would cancel."""
    return isinstance(x, Tracer) and x.ndim >= 4


def _axis_last(dim: int, ndim: int) -> int:
    """Where an axis of [b, c, *space] is in [b, *space, c]."""
    dim %= ndim
    return 0 if dim == 0 else ndim - 1 if dim == 1 else dim - 1


def _precise(x: Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)
