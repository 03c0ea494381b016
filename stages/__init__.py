"""Staged generation: text, denoising and decoding, each from files."""
