"""The file that `twinvae new-port` writes: a port that runs as it stands, to be filled with one's own."""

TEMPLATE = '''"""My port of CogVideoX's video VAE. `twinvae check {name}` says whether it is right.

As it stands this is diffusers' own class, so that it runs: put your model in its place.
"""

import torch
from diffusers import AutoencoderKLCogVideoX

# What is true of the port. All of it may be left out: small calls find it out, and say what they found.
layout = "bcthw"  # of videos and latents; "bthwc" if left out
arrays = "torch"  # what encode and decode are given: "jax", "numpy" or "torch"
# value_range = (0, 1)          # of videos; (-1, 1) if left out
# dtypes = ("float32",)         # that it computes in
# sizes = 8                     # heights and widths are multiples of it
# frames = (1, 9, 17)           # that a video may have
# jit = True                    # encode and decode may be given to jax.jit, and are judged both ways
# capabilities = ("whole",)     # to be judged on less than is found


def make(folder, dtype):
    """Build the port. Arguments are filled by their names: config, tensors (by diffusers' names), folder, dtype, jit;
    folder is one that diffusers writes, also in shards, and with an argument `variant` also as a variant.

    A port that builds nothing has functions encode and decode instead, and says which checkpoint it is of:
    weights = "a diffusers folder or hub id".
    """
    return Port(AutoencoderKLCogVideoX.from_pretrained(folder, torch_dtype=getattr(torch, dtype)))


class Port:
    def __init__(self, model):
        self.model = model

    def encode(self, video):
        """Moments (mean, then log-variance, along the channels), (mean, logvar), a posterior, or the mode alone."""
        with torch.no_grad():
            return self.model.encode(video).latent_dist

    def decode(self, latents):
        """The video. Latents come as they leave the encoder, without the scaling factor."""
        with torch.no_grad():
            return self.model.decode(latents).sample

    def as_diffusers(self):
        """What stands in the place of a pipeline's VAE, `pipe.vae`: torch in, torch out, [b, c, t, h, w]."""
        return self.model

    def save_pretrained(self, folder):
        """A folder that diffusers reads back bit for bit."""
        self.model.save_pretrained(folder)

    # What else is here is judged as well: enable_tiling and disable_tiling, enable_slicing and disable_slicing,
    # num_sample_frames_batch_size and num_latent_frames_batch_size, encode_stream and decode_stream,
    # activations(operation, clip), gradients(video, cotangent), state_dict(), load_layer(class_name, init, tensors).
'''
