"""Capabilities: what a backend says that it can do, and is judged on."""

from __future__ import annotations

from typing import Literal, get_args

Capability = Literal[
    "whole",  # encode and decode: the least
    "moments",  # encoding gives the log-variance beside the mean
    "weights",  # built from diffusers' tensors by name
    "tensors",  # gives them back by name
    "reads",  # its own loader, of a diffusers folder
    "saves",  # its own save_pretrained, of a folder that diffusers reads
    "pipeline",  # what stands in the place of a pipeline's VAE
    "config",  # of any architecture
    "dtypes",  # in every dtype
    "jit",  # compiled, and op by op
    "shapes",  # of any size
    "batches",  # its own frame batches, of a size that can be set
    "tiling",  # its own enable_tiling
    "slicing",  # its own enable_slicing
    "stream",  # decode_stream and encode_stream, with a conv cache handed on
    "activations",  # block outputs by diffusers' names
    "layers",  # one layer by diffusers' class name
    "gradients",
    "house",  # what `VideoVAE` gives its subclasses: refusals in words
    "step",  # two pure functions of one frame batch, which are lowered, planned and counted
]
CAPABILITIES: frozenset[Capability] = frozenset(get_args(Capability))
EAGER: frozenset[Capability] = CAPABILITIES - {"jit", "step"}  # all that needs no compiler

# What a port is seen by to be able to.
SHOWN_BY: dict[Capability, str] = {
    "moments": "moments, or mean and log-variance, for the output of encode",
    "weights": "a builder: a class or function that takes tensors, or a folder",
    "config": "a builder that takes config and tensors, or a folder",
    "reads": "a builder that takes a folder",
    "saves": "save_pretrained(folder)",
    "pipeline": "as_diffusers(), or diffusers' interface itself",
    "tensors": "state_dict()",
    "batches": "num_sample_frames_batch_size and num_latent_frames_batch_size",
    "tiling": "enable_tiling(tile_sample_min_height, tile_sample_min_width, tile_overlap_factor_height, ..._width)",
    "slicing": "enable_slicing(), or use_slicing",
    "stream": "encode_stream(video) and decode_stream(latents)",
    "activations": "activations(operation, clip)",
    "gradients": "gradients(video, cotangent)",
    "layers": "load_layer(class_name, init, tensors, dtype=, jit=)",
    "jit": "jit = True",
}
