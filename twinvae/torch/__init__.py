"""On PyTorch: the reference, and any backend as a pipeline's `vae`."""
