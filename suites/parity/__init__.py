"""Parity: diffusers' numbers, layer by layer and whole; gradients, checkpoints, pipelines."""
