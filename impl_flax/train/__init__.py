"""Training of the native backend's VAE, on its own forward pass and in its own frame batches."""
