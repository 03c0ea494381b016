"""Training: a step held to PyTorch's AdamW on diffusers' class, and what remat and batches take of memory."""
