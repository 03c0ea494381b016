"""Signatures: ways in which ports go wrong, each as a change of the reference that does the same."""

from __future__ import annotations

from itertools import permutations
from typing import Any, NamedTuple

from twinvae.bench.diagnosis.variant import CLIPS, Change, Variant, modules
from twinvae.tiles import Operation

BOTH: tuple[Operation, ...] = ("decode", "encode")
DECODE: tuple[Operation, ...] = ("decode",)
ENCODE: tuple[Operation, ...] = ("encode",)
TILED = ("tile sizes", "overlaps", "neighbours", "ramp")  # fields that are about tiles alone


class Signature(NamedTuple):
    """What a port that does so is told.

    Attributes:
        says: what is done, in words that end "where ...", with what diffusers does.
    """

    field: str
    value: Any
    says: str
    operations: tuple[Operation, ...] = BOTH
    where: str = ""

    @property
    def change(self) -> Change:
        return Change(self.field, self.value, self.where)

    @property
    def name(self) -> str:
        value = self.value if isinstance(self.value, str | int | float) else ", ".join(map(str, self.value))
        return f"{self.field}: {value}" + (f" in {self.where}" if self.where else "")


# What is said of each value of a field, and what diffusers does instead.
_FIELDS: list[tuple[str, tuple[Operation, ...], str, dict[Any, str]]] = [
    ("single latent", DECODE, "diffusers leaves it one frame", {
        "twice": "temporal upsampling doubles a single latent frame"}),
    ("together", DECODE, "diffusers takes 2, and GroupNorm's statistics run over them", {
        n: f"{n} latent frame{'s' if n > 1 else ''} go{'' if n > 1 else 'es'} through the decoder at a time"
        for n in (1, 3, 4, 5, 8)} | {"all": "all latent frames go through the decoder at once"}),
    ("together", ENCODE, "diffusers takes 8, and GroupNorm's statistics run over them", {
        n: f"{n} frame{'s' if n > 1 else ''} go{'' if n > 1 else 'es'} through the encoder at a time"
        for n in (1, 2, 3, 4, 5, 6, 7, 9, 16)} | {"all": "all frames go through the encoder at once"}),
    ("remainder", BOTH, "in diffusers the first frame batch takes the remainder", {
        "last": "the remainder of a clip is a frame batch of its own, the last",
        "with the last": "the last frame batch takes the remainder",
        "left out": "the remainder of a clip is left out",
        "first, alone": "the remainder of a clip is a frame batch of its own, the first",
        "first frame alone": "the first frame is a frame batch of its own"}),
    ("cache", BOTH, "diffusers keeps the last frames of cache and input together", {
        "of the current input": "a conv cache is taken from the current input alone (short: its first frame repeated)",
        "of the current input, zeros before": "a conv cache is taken from the current input alone (short: zeros)",
        "one frame late": "a conv cache is one frame late"}),
    ("handed on", BOTH, "diffusers hands each frame batch's cache to the next", {
        "nothing": "no conv cache is handed from a frame batch to the next",
        "the first batch's": "the conv cache of the first frame batch is used for all that follow"}),
    ("items", BOTH, "in diffusers the items of a batch do not see each other", {
        "leaking": "an item of a batch begins with the conv cache of the item before it"}),
    ("time padding", BOTH, "diffusers repeats the first frame before a clip, and pads nothing after it", {
        "zeros": "causal convolutions begin a clip with zeros", "after": "convolutions are padded after a clip",
        "on both sides": "convolutions are padded with repeated frames on both sides in time",
        "zeros on both sides": "convolutions are padded with zeros on both sides in time"}),
    ("space padding", BOTH, "diffusers pads frames with zeros", {
        "replicated": "convolutions pad frames by replicating their edge",
        "reflected": "convolutions pad frames by reflection", "around": "convolutions wrap around a frame's edge"}),
    ("kernel", BOTH, "diffusers' kernels are [out, in, time, height, width] and not mirrored", {
        "mirrored in every axis": "kernels are mirrored in every axis, as of a true convolution",
        "mirrored in time": "kernels are mirrored in time", "mirrored in height": "kernels are mirrored in height",
        "mirrored in width": "kernels are mirrored in width",
        "height and width exchanged": "kernels have height and width exchanged",
        "input and output channels exchanged": "square kernels have input and output channels exchanged"}),
    ("bias", BOTH, "diffusers adds it once", {
        "left out": "biases of convolutions are left out", "added twice": "biases of convolutions are added twice"}),
    ("epsilon", BOTH, "diffusers has norm_eps in the encoder's blocks, and 1e-6 elsewhere", {
        epsilon: f"norms have an epsilon of {epsilon:g}" for epsilon in (1e-5, 1e-3, 1e-4, 1e-2, 1e-7, 1e-8, 1e-12, 0.0)
        } | {1e-6: "norms have an epsilon of 1e-06 whatever norm_eps says"}),
    ("statistics", BOTH, "diffusers takes GroupNorm's statistics over an item's frame batch", {
        "each frame": "GroupNorm takes its statistics of each frame alone",
        "all items": "GroupNorm takes its statistics over all items of a batch",
        "each pixel": "GroupNorm takes its statistics of each pixel alone"}),
    ("variance", BOTH, "diffusers divides by the count, about the mean", {
        "unbiased": "GroupNorm's variance is divided by one less than the count",
        "about zero": "GroupNorm does not subtract the mean",
        "epsilon on the deviation": "GroupNorm's epsilon is added to the deviation, not to the variance"}),
    ("groups", BOTH, "a group of diffusers' is neighbouring channels", {
        "every n-th channel": "a group of a GroupNorm is every n-th channel"}),
    ("number of groups", BOTH, "diffusers has norm_num_groups", {
        n: f"GroupNorm has {n} group{'s' if n > 1 else ''}" for n in (32, 1, 2, 4, 8, 16)}),
    ("affine", BOTH, "diffusers multiplies by the weight and adds the bias", {
        "left out": "weight and bias of norms are left out", "bias left out": "biases of norms are left out",
        "weight and bias exchanged": "weight and bias of norms are exchanged",
        "1 + weight": "norms multiply by 1 + weight"}),
    ("activation", BOTH, "diffusers takes act_fn", {
        "silu": "act_fn is ignored, and SiLU used", "relu": "blocks use ReLU", "gelu": "blocks use GELU",
        "gelu by tanh": "blocks use GELU's approximation by tanh", "mish": "blocks use Mish",
        "sigmoid": "blocks use the sigmoid", "none": "blocks have no activation"}),
    ("last activation", BOTH, "diffusers has SiLU there, whatever act_fn is", {
        "none": "the activation before conv_out is left out", "act_fn": "act_fn is used before conv_out as well",
        "relu": "ReLU is used before conv_out", "gelu": "GELU is used before conv_out"}),
    ("condition", DECODE, "diffusers computes norm(f) * conv_y(z) + conv_b(z)", {
        "(1 + y) * norm + b": "spatial norms multiply by 1 + conv_y(z)",
        "b * norm + y": "spatial norms have conv_y and conv_b exchanged",
        "y * norm": "spatial norms leave conv_b out", "norm + b": "spatial norms leave conv_y out",
        "norm": "spatial norms are not conditioned on the latents",
        "y * (norm + b)": "spatial norms add conv_b before they multiply",
        "y * f + b": "spatial norms do not normalise"}),
    ("resized", DECODE, "diffusers resizes by nearest neighbour, the first of an odd count of frames alone", {
        "all frames together": "spatial norms resize latents over all frames together, also where their count is odd",
        "linearly": "spatial norms resize latents linearly"}),
    ("shortcut", BOTH, "diffusers adds the input", {
        "left out": "ResNet blocks leave their shortcut out", "halved": "ResNet blocks divide their sum by sqrt(2)"}),
    ("pooled axes", ENCODE, "diffusers transposes to [batch * height * width, channel, time]", {
        "reshaped there and back": "temporal pooling reshapes [b, t, h, w, c] to [b * h * w, t, c] without a transpose",
        "reshaped there, transposed back": "temporal pooling reshapes without a transpose on its way in"}),
    ("odd frame", ENCODE, "diffusers leaves the first frame alone", {
        "last": "temporal pooling of an odd count of frames leaves the last frame alone",
        "left out": "temporal pooling of an odd count of frames leaves the last frame out",
        "first left out": "temporal pooling of an odd count of frames leaves the first frame out",
        "beside zeros": "temporal pooling of an odd count of frames averages the last with zeros"}),
    ("temporal pooling", ENCODE, "diffusers averages two frames", {
        "maximum": "temporal pooling takes the maximum of two frames", "sum": "temporal pooling adds two frames up",
        "the first of two": "temporal pooling takes the first of two frames",
        "the second of two": "temporal pooling takes the second of two frames"}),
    ("downsample padding", ENCODE, "diffusers pads one row below and one column on the right", {
        "SAME": "downsampling pads as 'SAME' does, which differs where a height or width is odd",
        "before": "downsampling pads above and on the left", "on both sides": "downsampling pads on all sides",
        "none": "downsampling pads nothing", "of the edge": "downsampling repeats a frame's edge instead of zeros"}),
    ("compressed levels", BOTH, "diffusers has them in the first blocks", {
        "last": "time is compressed or expanded in the last levels instead of the first"}),
    ("odd latents", DECODE, "diffusers leaves the first frame of an odd count single", {
        "all twice": "temporal upsampling doubles every frame of an odd count",
        "last once": "temporal upsampling leaves the last frame of an odd count single",
        "first once always": "temporal upsampling leaves the first frame single also where the count is even"}),
    ("doubled frames", DECODE, "diffusers repeats each frame in its place", {
        "a b a b": "temporal upsampling repeats the clip, not each frame",
        "linearly": "temporal upsampling is linear"}),
    ("upsampling", DECODE, "diffusers' is nearest neighbour", {"linear": "spatial upsampling is linear"}),
    ("quant convs", BOTH, "diffusers applies them where the config has them", {
        "left out": "quant_conv and post_quant_conv are left out"}),
    ("clip", DECODE, "diffusers does not clip", {
        "untiled": "video is clipped to [-1, 1] where it is not tiled", "always": "video is clipped to [-1, 1]"}),
    ("weights", BOTH, "diffusers computes with them as they are", {
        dtype: f"weights are rounded to {dtype}" for dtype in ("bfloat16", "float16")}),
    ("tile sizes", BOTH, "diffusers' come as height, width", {
        "exchanged": "height and width of tiles are exchanged"}),
    ("overlaps", BOTH, "diffusers takes each of its own axis", {
        "exchanged": "the overlaps of height and width are exchanged",
        "diffusers' defaults": "overlaps that are set are ignored, and the defaults taken"}),
    ("neighbours", BOTH, "diffusers blends in place: both neighbours are blended already", {
        "raw": "tiles are blended with neighbours that are not blended themselves"}),
    ("ramp", BOTH, "diffusers' tile has the share i / n in the i-th of n cells, from 0", {
        ramp: f"the blend's ramp is {ramp}" for ramp in (
            "(i + 1) / n", "(i + 1) / (n + 1)", "(i + 1/2) / n", "i / (n - 1)", "a half", "reversed")
        } | {"none": "tiles are not blended"}),
]  # fmt: skip


def signatures(variant: Variant, operation: Operation) -> list[Signature]:
    """All that are about an operation, of the whole VAE."""
    found = [
        Signature(field, value, f"{says}; {right}", operations)
        for field, operations, right, ways in _FIELDS
        for value, says in ways.items()
        if operation in operations
    ]
    encode = operation == "encode"
    given, result = ("video", "moments") if encode else ("latents", "video")
    for way in CLIPS:
        if "log-variance" in way and not encode:
            continue
        if "log-variance" not in way:
            found.append(Signature("input", way, f"{given} go into the network {way}", (operation,)))
        found.append(Signature("output", way, f"{result} come out {way}", (operation,)))
    config = variant.config
    factors = {
        "multiplied by scaling_factor": config.scaling_factor,
        "divided by scaling_factor": 1 / config.scaling_factor,
    }
    for way, factor in factors.items():
        found.append(
            Signature(
                "input" if not encode else "output", factor, f"latents are {way}; that is a pipeline's", (operation,)
            )
        )
    channels = config.out_channels
    for order in permutations(range(channels)) if channels == 3 else ():
        if order not in ((0, 1, 2), (2, 1, 0)):
            found.append(
                Signature("input" if encode else "output", order, f"colours come in the order {order}", (operation,))
            )
    return found


# What may be wrong in one module alone: its kinds by what it is.
_OF_CONV = ("kernel", "bias", "space padding", "time padding")
_OF_NORM = ("epsilon", "affine", "groups", "statistics", "variance", "number of groups")
_OF_BLOCK = ("activation", "shortcut", "condition", "resized", "downsample padding", "upsampling", "single latent",
             "odd frame", "odd latents", "pooled axes", "temporal pooling", "doubled frames")  # fmt: skip


def of_modules(variant: Variant, operation: Operation, inside: str = "") -> list[Signature]:
    """What may be wrong in one module alone.

    Args:
        inside: only in the block of this name.
    """
    names = [
        name
        for name in modules(list(variant.tensors), operation)
        if name == inside or name.startswith(f"{inside}.") or not inside
    ]
    found: list[Signature] = []
    parents = [name.rpartition(".")[0] for name in names]
    parents += [name.rpartition(".")[0] for name in parents]
    blocks = [name for name in dict.fromkeys(parents) if name.count(".") > 1 and name.startswith(inside)]
    for field, operations, right, ways in _FIELDS:
        if operation not in operations:
            continue
        for value, says in ways.items():
            for name in names:
                vector = variant.tensors[f"{name}.weight"].ndim == 1
                if field in (_OF_NORM if vector else _OF_CONV):
                    module = name.removesuffix(".conv") if field == "time padding" else name
                    found.append(Signature(field, value, f"in {module} alone: {says}; {right}", operations, module))
            for name in blocks if field in _OF_BLOCK else ():
                found.append(Signature(field, value, f"in {name} alone: {says}; {right}", operations, name))
    return found
