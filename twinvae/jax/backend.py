"""JaxVideoVAE: a backend given by its parameters and two pure functions, one frame batch at a time."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding

from twinvae import arrays
from twinvae.blocks import block_names
from twinvae.config import VAEConfig
from twinvae.forms import COLUMN_SLABS, WHOLE, Form
from twinvae.frames import frame_batches, grouped
from twinvae.interface import Cache, Operation, VideoVAE
from twinvae.jax import tiling
from twinvae.jax.compiling import compiler_options, on_gpu, tracing_for
from twinvae.jax.mappings import make_room
from twinvae.jax.memory import tree_bytes, usable_bytes
from twinvae.jax.mesh import (
    SPEC,
    Deal,
    checked_mesh,
    deal,
    fastest,
    is_here,
    join,
    make_mesh,
    operation_of,
    replicated,
    result_sharding,
)
from twinvae.jax.planner import Call, Planner, device_of
from twinvae.jax.shards import AXES, CLIPS, TIME
from twinvae.jax.splits import Split, Work
from twinvae.plan import Plan
from twinvae.sizes import parse_size
from twinvae.tiles import TileGrid, tile_shapes

SLAB_BYTES = 64 * 2**20  # 16 rows at 768x1360, whose two of halo are an eighth more; smaller ones save nothing there
OF_A_PROCESS = ("planner", "_compiled_steps", "_blending")
Params = Any  # a backend's own tree of jax.Array


class StepKind(NamedTuple):
    """A program that runs frame batches: without a conv cache or with one, of so many frames, rows and columns."""

    first: bool
    frames: int
    height: int
    width: int


class JaxVideoVAE(arrays.Pickled, VideoVAE):
    """Compiles a backend's step once per shape, so that compiling does not grow with frames or tiles.

    Args:
        params: the backend's tree of arrays, passed to every step.
        jit: compile each step; False runs op by op.

    Attributes:
        forms: the backend's ways to compute a frame batch, the fastest first and the leanest last.
        slab_bytes: of a slab's input, in the forms that have slabs.
        memory_budget: in bytes; None: what the device has.
        planner: which says what a call takes.
        mesh: of devices that share each call; None: the default device. `on` gives a VAE with another.
        shared_axes: of a mesh, those that may be larger than 1.
        gathered: on a mesh, every device is given all of a result, and so every host: else each has its part.
    """

    shared_axes: tuple[str, ...] = (CLIPS,)
    unshared = "its layers see all frames and rows of a frame batch"

    def __init__(self, config: VAEConfig, dtype: str, checkpoint: str, params: Params, jit: bool):
        super().__init__(config, dtype, checkpoint)
        self.params = params
        self.jit = jit
        self.forms: tuple[Form, ...] = (WHOLE,)
        self.slab_bytes = SLAB_BYTES
        self.memory_budget: int | None = None
        self.mesh: Mesh | None = None
        self.gathered = False
        self._begin()

    def _begin(self) -> None:
        """What is compiled, or planned, in this process."""
        self.planner = Planner(self.config, self.dtype, self.lower_step, tree_bytes(self.params))
        self._compiled_steps: dict[Any, Any] = {}
        self._blending = jax.jit(tiling.blend, static_argnames=("extent", "axis")) if self.jit else tiling.blend

    def __getstate__(self) -> dict[str, Any]:
        """Without what this process has compiled and planned, and its devices: another has its own."""
        alone = self if self.mesh is None else self.on(None)
        return {name: value for name, value in super(JaxVideoVAE, alone).__getstate__().items()
                if name not in OF_A_PROCESS}  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        with self._scope():
            self.params = jax.tree.map(jnp.asarray, self.params)
        self._begin()

    def __deepcopy__(self, memo: dict[int, Any]) -> JaxVideoVAE:
        """Arrays never change and are shared; copied by itself, an `nnx.State` would lose what its leaves are."""
        again = type(self).__new__(type(self))
        vars(again).update({name: value if name in ("params", "mesh") else deepcopy(value, memo)
                            for name, value in vars(self).items() if name not in OF_A_PROCESS})  # fmt: skip
        again._begin()
        return again

    def on(self, mesh: Mesh | None) -> JaxVideoVAE:
        """The same VAE on a mesh with axes "clips", "time" and "rows" (see `twinvae.make_mesh`); None: on one device.

        Frame batches, clips and rows that do not divide by the devices are filled up; the numbers are the same.

        Raises:
            ValueError: other axes, devices of two platforms, a VAE that runs op by op, or an axis that this backend
                cannot share.
        """
        mesh = None if mesh is None else checked_mesh(mesh)
        if mesh is not None:
            if not self.jit:
                raise ValueError("a mesh runs compiled programs: load with jit=True")
            refused = [axis for axis in AXES if mesh.shape[axis] > 1 and axis not in self.shared_axes]
            if refused:
                raise ValueError(
                    f"the {self.backend!r} backend shares {' and '.join(self.shared_axes)} among devices, not "
                    f"{' nor '.join(refused)}: {self.unshared}; make that axis 1, or load 'flax'"
                )
        again = self._planned_on(mesh)
        if mesh is None:
            again.params = jax.device_put(self.params, jax.devices()[0])
        elif is_here(mesh):
            with self._scope():
                again.params = replicated(self.params, mesh)
        return again

    def _planned_on(self, mesh: Mesh | None) -> JaxVideoVAE:
        """The same VAE on a mesh, to which no parameters have been taken yet."""
        again = deepcopy(self)
        again.mesh = mesh
        again.devices = (1, 1, 1) if mesh is None else tuple(mesh.devices.shape)
        again.forms = tuple(form for form in self.forms if form != COLUMN_SLABS)  # rows are each device's own
        return again

    def mesh_for(self, shape: tuple[int, ...], devices: Sequence[Any] | None = None) -> Mesh:
        """The mesh on which `encode` or `decode` of a clip takes the least time and fits (see `twinvae.make_mesh`).

        Args:
            devices: that may be used; None: all that JAX has.
        Raises:
            ValueError: a wrong shape, or a VAE that runs op by op.
            MemoryError: no split fits; the message is that of the one which needs least.
        """
        operation, found = operation_of(self.config, shape), list(jax.devices() if devices is None else devices)
        self._check_shape(operation, shape)
        if not self.jit:
            raise ValueError("a mesh runs compiled programs: load with jit=True")
        refused: dict[Split, MemoryError] = {}
        for split in fastest(Work.of(self.config, operation, shape, self.frame_batch_size(operation)), found):
            if any(count > 1 and axis not in self.shared_axes for axis, count in zip(AXES, split, strict=True)):
                continue
            mesh = make_mesh(*split, devices=found[: split.devices])
            there = self._planned_on(mesh)
            call = there.call_of(operation, shape)
            try:
                if there.planner.roomy_form(call) is not None or there.planner.plan(call).exact:
                    return mesh
            except MemoryError as error:
                refused[split] = error
        leanest = max(refused, key=lambda split: split.clips * split.rows)  # time does not make a frame batch smaller
        raise MemoryError(f"no split over {len(found)} devices fits; {leanest}: {refused[leanest]}")

    @abstractmethod
    def step(self, operation: Operation, params: Params, frames: jax.Array, cache: Cache | None) -> Any:
        """Pure: one frame batch through the encoder (giving moments) or decoder.

        Args:
            frames: [b, t, h, w, c], video or latents.
            cache: None for the first frame batch of a clip, else what the step before returned.
            form: one of `forms`, an argument of backends that have more than "whole".
        Returns:
            The output, channel-last, and the conv cache.
        """

    @abstractmethod
    def named_activations(self, operation: Operation, params: Params, frames: jax.Array, cache: Cache | None) -> Any:
        """Pure: like `step`, giving `({name: output}, cache)` for every name of `block_names`."""

    @abstractmethod
    def named_tensors(self, params: Params) -> dict[str, jax.Array]:
        """A tree like `params` (the parameters, or their gradients) by diffusers' names, in diffusers' layouts."""

    def state_dict(self) -> dict[str, np.ndarray]:
        with self._scope():
            return {name: np.asarray(tensor) for name, tensor in self.named_tensors(self.params).items()}

    def activations(self, operation: Operation, clip: jax.Array) -> dict[str, jax.Array]:
        clip = super().checked(operation, clip)
        run = partial(self.named_activations, operation)
        run = jax.jit(run) if self.jit else run
        cache, parts = None, []
        with self._scope():
            for batch in frame_batches(clip.shape[1], self.frame_batch_size(operation)):
                part, cache = run(self.params, jnp.asarray(clip[:, batch]), cache)
                parts.append(part)
            names = block_names(self.config, operation)
            return {name: jnp.concatenate([part[name] for part in parts], axis=1) for name in names}

    def gradients(self, video: jax.Array, cotangent: jax.Array) -> dict[str, np.ndarray]:
        video = self.checked("encode", video)

        whole = self._one_program()

        def reconstruct(params: Params, video: jax.Array) -> jax.Array:
            moments = whole("encode", params, video)
            return whole("decode", params, moments[..., : self.config.latent_channels])

        with self._scope():
            reconstruct = jax.jit(reconstruct) if self.jit else reconstruct
            dtype = arrays.DTYPES[self.dtype]
            _, pull_back = jax.vjp(reconstruct, self.params, jnp.asarray(video, dtype))
            of_params, of_video = pull_back(jnp.asarray(arrays.to_numpy(cotangent), dtype))
            named = {name: np.asarray(gradient) for name, gradient in self.named_tensors(of_params).items()}
            return named | {"video": np.asarray(of_video)}

    def _scope(self) -> Any:
        return arrays.dtype_scope(arrays.DTYPES[self.dtype])

    def set_memory_budget(self, size: str | int | None) -> None:
        """Have calls take the fastest form whose peak is under a size such as "16GiB"; None: what the device has.

        Raises:
            ValueError: not a size, or a VAE that runs op by op, so that no peak is known before a call.
        """
        if size is not None and not self.jit:
            raise ValueError("a memory budget needs compiled programs, whose peak is known: load with jit=True")
        self.memory_budget = None if size is None else parse_size(size)

    def plan(self, shape: tuple[int, ...], operation: Operation = "decode", sharding: Any = None) -> Plan:
        """What `encode` or `decode` of a clip of `shape` will do under the memory budget, and the predicted peak.

        Forms are compiled, the fastest first, until one fits; the call itself then compiles nothing again. A stream
        takes the same form and needs one conv cache more: it keeps the one that it goes on from until a step is done.
        Under slicing that is so of a single clip: the clips of a stream go through together, those of a call do not.

        Args:
            shape: [b, t, h, w, c] of the video or the latents.
            sharding: of the clip, on devices that need not be there: those of a TPU compiler's topology.
        Raises:
            ValueError: a wrong shape, or a VAE that runs op by op.
            MemoryError: no form fits; the message names the smallest budget that would do.
        """
        self._check_shape(operation, shape)
        if not self.jit:
            raise ValueError("a plan is made of compiled programs, whose peak is known: load with jit=True")
        return self.planner.plan(self.call_of(operation, shape, sharding))

    def call_of(
        self, operation: Operation, shape: tuple[int, ...], sharding: Any = None, together: bool = False
    ) -> Call:
        """A call as the settings have it now, all that a plan depends on.

        Args:
            together: see `layout`.
        Raises:
            ValueError: tiles that the encoder cannot take.
        """
        shape, turns = tuple(shape), 1
        sharding = self._sharding(sharding)
        if self.use_slicing and not together:
            shape, turns = (1, *shape[1:]), shape[0]
        budget = usable_bytes(device_of(sharding)) if self.memory_budget is None else self.memory_budget
        grid, spare = self.grid(operation, shape), self._spare_grid(operation, shape)
        own = self.forms, self.slab_bytes, budget, sharding
        size, in_time = self.frame_batch_size(operation), 1 if self.mesh is None else self.mesh.shape[TIME]
        return Call(operation, shape, size, grid, spare, *own, turns=turns, together=in_time)

    def _sharding(self, sharding: Any) -> Any:
        """That of a call: the mesh's where there is one.

        Raises:
            ValueError: a sharding of channels, or one beside a mesh.
        """
        if isinstance(sharding, NamedSharding) and len(sharding.spec) > 4 and sharding.spec[4] is not None:
            raise ValueError(
                f"{sharding.spec} shards channels, which every convolution needs all of: shard clips, time or rows "
                "(twinvae.make_mesh)"
            )
        if self.mesh is None:
            return sharding
        own = NamedSharding(self.mesh, SPEC)
        if sharding not in (None, own):
            raise ValueError(
                f"this VAE is on a mesh, which says how clips are sharded, and cannot take {sharding}: leave the "
                "sharding out, or take the VAE off its mesh with vae.on(None)"
            )
        return own

    def _spare_grid(self, operation: Operation, shape: tuple[int, ...]) -> TileGrid | None:
        """The tiles that the settings make of a frame; None where the encoder could not take the last one."""
        try:
            return self.possible_grid(operation, shape)
        except ValueError:
            return None

    def layout(
        self, operation: Operation, clip: jax.Array | jax.ShapeDtypeStruct, together: bool = False
    ) -> tuple[Form, TileGrid | None]:
        call = self.call_of(operation, clip.shape, together=together)
        if not self.jit or (len(self.forms) == 1 and self.memory_budget is None):
            return self.forms[0], call.grid
        inside = isinstance(clip, Tracer)  # of somebody's program, where nothing can be compiled
        # A rough peak is too little where frame batches are short beside the conv cache: what somebody has set is kept.
        form = self.planner.roomy_form(call) if self.memory_budget is None or inside else None
        if form is None and inside:
            form = self.forms[-1]
        if form is not None:
            return form, call.grid
        plan = self.planner.plan(call)
        return plan.form, plan.grid

    def run_frame_batch(
        self,
        operation: Operation,
        frames: jax.Array,
        cache: Cache | None,
        form: Form = WHOLE,
        spent: bool = False,
        last: bool = False,
    ) -> Any:
        inside = isinstance(frames, Tracer)  # of somebody's program: how that is compiled is theirs to say
        if not inside:
            make_room()
        if self.mesh is not None:
            return self._run_group(self.mesh, operation, frames, cache, form, inside, spent, last)
        run = self.compiled_step(operation, form, inside, spent, alone=last and cache is None)
        with self._scope():
            return run(self.params, jnp.asarray(frames), cache)

    def _run_group(
        self,
        mesh: Mesh,
        operation: Operation,
        frames: Any,
        cache: Cache | None,
        form: Form,
        inside: bool,
        spent: bool,
        last: bool,
    ) -> Any:
        """Put frame batches through, side by side on the devices of a mesh."""
        if not is_here(mesh):
            raise ValueError(
                f"this VAE is on a mesh of {mesh.devices.flat[0].platform} devices that are not here: it can be "
                "planned and lowered, not run; take devices of jax.devices()"
            )
        group = self._deal(mesh, operation, frames.shape, cache is None)
        if cache is None and (idle := group.idle()):
            warnings.warn(f"{operation} of {list(frames.shape)}: {'; '.join(idle)}", stacklevel=2)
        run = self.compiled_step(operation, form, inside, spent, group=group, alone=last and cache is None)
        with self._scope():
            out, carried = run(self.params, group.placed(frames, arrays.DTYPES[self.dtype]), cache)
            carried = carried if spent else group.kept(carried)
            return (group.collected if inside else self._collecting(group))(out), carried

    def _deal(self, mesh: Mesh, operation: Operation, shape: tuple[int, ...], starts: bool) -> Deal:
        return deal(mesh, self.config, operation, shape, self.frame_batch_size(operation), starts)

    def _collecting(self, group: Deal) -> Any:
        """The program that puts together what a group of frame batches gives."""
        key = group, self.gathered
        if key not in self._compiled_steps:
            collect, gathered = group.collected, self.gathered

            def run(out: jax.Array) -> jax.Array:
                shape = jax.eval_shape(collect, out).shape
                return jax.jit(collect, out_shardings=result_sharding(group.mesh, shape, gathered))(out)

            self._compiled_steps[key] = run
        return self._compiled_steps[key]

    def schedule(self, operation: Operation, frames: int, continued: bool = False) -> list[slice]:
        batches = super().schedule(operation, frames, continued)
        return batches if self.mesh is None else grouped(batches, self.mesh.shape[TIME])

    def _step_of(self, operation: Operation, form: Form) -> Any:
        """The pure step, for backends of one form without that argument."""
        step: Any = self.step  # which takes a form where there is more than one
        return partial(step, operation) if form == WHOLE else partial(step, operation, form=form)

    def compiled_step(
        self,
        operation: Operation,
        form: Form,
        inside: bool,
        spent: bool,
        platform: str | None = None,
        group: Deal | None = None,
        alone: bool = False,
    ) -> Any:
        """The jitted step (the plain one of an eager VAE).

        Args:
            inside: of another program that is being traced.
            spent: nobody needs the conv cache that goes in, and what comes out may lie in its place.
            platform: that it is compiled for; the default device's where it is None.
            group: of frame batches that are dealt out to a mesh.
            alone: for the only frame batch of a clip, or the only group of them. In slabs, which are there to save
                memory, it keeps no conv cache: that of 3 latents at 768x1360 is 8.6 GB. Elsewhere the program for
                longer clips serves it too.
        """
        run = self._step_of(operation, form)
        alone = alone and form != WHOLE
        run = partial(_without_cache, run) if alone else run
        run = run if group is None else group.over_devices(run)
        if not self.jit:
            return run
        spent = spent and (form != WHOLE or on_gpu(platform))
        dealt = None if group is None else (group.mesh, group.shard)
        key = operation, form, self.slab_bytes, inside, spent, platform, dealt, alone
        if key not in self._compiled_steps:
            options = {} if inside else compiler_options(platform, self.dtype)
            donated: dict[str, Any] = {"donate_argnums": 2} if spent else {}
            self._compiled_steps[key] = jax.jit(run, compiler_options=options, **donated)
        return self._compiled_steps[key]

    def concatenate(self, parts: list[jax.Array], axis: int) -> jax.Array:
        with self._scope():
            if len(parts) == 1:
                return parts[0]
            return jnp.concatenate(parts, axis) if self.mesh is None else join(self.mesh, parts, axis, self.gathered)

    def blend(self, tile: jax.Array, neighbour: jax.Array, extent: int, axis: int) -> jax.Array:
        with self._scope():
            return self._blending(tile, neighbour, extent=extent, axis=axis)

    def _one_program(self) -> Any:
        """The pure function of a whole clip: on a mesh, that which runs groups of frame batches."""
        return self._whole if self.mesh is None else partial(self._whole_in_groups, self.mesh)

    def _whole(self, operation: Operation, params: Params, clip: jax.Array, form: Form = WHOLE) -> jax.Array:
        """Pure: the whole clip as one program; the frame batches after the first run in a `lax.scan`."""
        batches = frame_batches(clip.shape[1], self.frame_batch_size(operation))
        step = self._step_of(operation, form)
        head, cache = step(params, clip[:, batches[0]], None)
        if len(batches) == 1:
            return head
        # Rows of pixels, not pixels: a TPU pads the last axis to 128, and would pad all of a clip's 3 channels.
        rest = _by_rows(clip[:, batches[1].start :])
        rest = rest.reshape(rest.shape[0], len(batches) - 1, -1, *rest.shape[2:]).swapaxes(0, 1)

        def body(cache: Cache, rows: jax.Array) -> tuple[Cache, jax.Array]:
            out, cache = step(params, rows.reshape(*rows.shape[:3], *clip.shape[3:]), cache)
            return cache, _by_rows(out)

        _, tail = jax.lax.scan(body, cache, rest)
        tail = tail.swapaxes(0, 1)
        out = jnp.concatenate([_by_rows(head), tail.reshape(tail.shape[0], -1, *tail.shape[3:])], axis=1)
        return out.reshape(*out.shape[:3], *head.shape[3:])

    def _whole_in_groups(
        self, mesh: Mesh, operation: Operation, params: Params, clip: jax.Array, form: Form = WHOLE
    ) -> jax.Array:
        """Pure: the whole clip as one program, a group of frame batches after the other."""
        cache, parts = None, []
        for frames in self.schedule(operation, clip.shape[1]):
            piece = clip[:, frames]
            group = self._deal(mesh, operation, piece.shape, cache is None)
            step = group.over_devices(self._step_of(operation, form))
            out, cache = step(params, group.placed(piece, piece.dtype), cache)
            parts.append(group.collected(out))
        return jnp.concatenate(parts, axis=1)

    def lower_encode(self, shape: tuple[int, ...], sharding: Any = None) -> jax.stages.Lowered:
        """Lower the untiled encode of a video of `shape` as one program, without running anything."""
        return self._lower("encode", shape, sharding)

    def lower_decode(self, shape: tuple[int, ...], sharding: Any = None) -> jax.stages.Lowered:
        """Lower the untiled decode of latents of `shape` as one program, without running anything."""
        return self._lower("decode", shape, sharding)

    def lower_call(self, operation: Operation, shape: tuple[int, ...]) -> dict[StepKind, jax.stages.Lowered]:
        """Lower every program that a call of a clip of `shape` runs its frame batches with."""
        self._check_shape(operation, shape)
        form, grid = self.layout(operation, self._abstract(shape, None))
        tiles, clips = tile_shapes(grid) if grid else [shape[2:4]], 1 if self.use_slicing else shape[0]
        batches = [batch.stop - batch.start for batch in self.schedule(operation, shape[1])]
        kinds = [StepKind(first, length, *tile) for tile in dict.fromkeys(tiles)
                 for first, length in zip((True, False), batches[:2], strict=False)]  # fmt: skip
        alone = len(batches) == 1
        return {
            kind: self.lower_step(operation, (clips, *kind[1:], shape[4]), first=kind.first, form=form, alone=alone)
            for kind in kinds
        }

    def _lower(self, operation: Operation, shape: tuple[int, ...], sharding: Any) -> jax.stages.Lowered:
        self._check_shape(operation, shape)
        form = self._lowered_form(operation, shape, sharding)
        sharding = self._sharding(sharding)
        options = compiler_options(device_of(sharding).platform, self.dtype)
        run = jax.jit(partial(self._one_program(), operation, form=form), compiler_options=options)
        if self.mesh is not None:  # what does not divide is on every device
            sharding = result_sharding(self.mesh, shape)
        with self._scope(), tracing_for(device_of(sharding).platform):
            return run.lower(self._abstract_params(sharding), self._abstract(shape, sharding))

    def lower_step(
        self,
        operation: Operation,
        shape: tuple[int, ...],
        sharding: Any = None,
        first: bool = False,
        form: Form | None = None,
        alone: bool = False,
    ) -> jax.stages.Lowered:
        """Lower one frame batch as a program, without running anything: what `encode` and `decode` run.

        Args:
            shape: [b, t, h, w, c] of the frame batch, of video or of latents; on a mesh, of a group of them.
            sharding: of the frames, and of the conv cache, whose axes are the same.
            first: without a conv cache.
            form: one of `forms`; None takes the one that the budget, or the device, has room for.
            alone: first, and no other follows.
        """
        self._check_shape(operation, shape)
        form = self._lowered_form(operation, shape, sharding) if form is None else form
        sharding = self._sharding(sharding)
        platform = None if sharding is None else device_of(sharding).platform
        group = None if self.mesh is None else self._deal(self.mesh, operation, shape, first)
        step = self.compiled_step(operation, form, False, True, platform, group, alone)
        with self._scope(), tracing_for(platform):
            params = self._abstract_params(sharding)
            frames = self._abstract(group.dealt_shape if group else shape, sharding)
            if first:
                return step.lower(params, frames, None)
            plain = self._step_of(operation, WHOLE)
            _, cache = jax.eval_shape(group.over_devices(plain) if group else plain, params, frames, None)
            cache = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding), cache)
            return step.lower(params, frames, cache)

    def checked(self, operation: Operation, clip: Any) -> Any:
        """On a mesh, NumPy's clip as it is: each host reads what its own devices take, and brings that to the dtype."""
        if self.mesh is None or not isinstance(clip, np.ndarray) or not arrays.is_float(clip.dtype):
            return super().checked(operation, clip)
        self._check_shape(operation, clip.shape)
        return clip

    def _check_shape(self, operation: Operation, shape: tuple[int, ...]) -> None:
        super().checked(operation, np.broadcast_to(np.zeros((), arrays.DTYPES[self.dtype]), shape))

    def _lowered_form(self, operation: Operation, shape: tuple[int, ...], sharding: Any) -> Form:
        """The fastest form that there is certainly room for, else the leanest."""
        call = self.call_of(operation, shape, sharding, together=True)._replace(grid=None)
        return self.planner.roomy_form(call) or call.ways[-1]

    def _abstract(self, shape: tuple[int, ...], sharding: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, arrays.DTYPES[self.dtype], sharding=sharding)

    def _abstract_params(self, sharding: Any) -> Params:
        def abstract(array: jax.Array) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=_replicated(sharding))

        return jax.tree.map(abstract, self.params)


def _without_cache(step: Any, params: Params, frames: jax.Array, cache: Cache | None) -> tuple[jax.Array, None]:
    """A step whose conv cache nobody needs."""
    return step(params, frames, cache)[0], None


def _by_rows(frames: jax.Array) -> jax.Array:
    """[b, t, h, w, c] as [b, t, h, w * c]."""
    return frames.reshape(*frames.shape[:3], -1)


def _replicated(sharding: Any) -> Any:
    """The sharding of parameters beside a clip that is sharded: a copy on every device of the mesh."""
    if isinstance(sharding, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return sharding
