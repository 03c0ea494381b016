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
