"""What a pipeline wrapper does wrong is named, and nothing of a right one; of a VAE that computes next to nothing."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

import twinvae
from twinvae import Posterior, arrays
from twinvae.bench.diagnosis.wrapper import of_wrapper
from twinvae.capabilities import CAPABILITIES
from twinvae.port import PortError
from twinvae.port.errors import PortRaised

CONFIG = twinvae.PRESETS["tiny"]
FACTOR = CONFIG.scaling_factor


class Made:
    """Encodes every cell by its corner, decodes it to a block."""

    config, dtype, capabilities = CONFIG, "float64", CAPABILITIES

    def __init__(self, wrapper=None):
        self.wrapper = wrapper

    def as_diffusers(self):
        return self.wrapper(self)

    def encode(self, video):
        mean = (
            np.repeat(video[:, ::4, ::8, ::8, :1], CONFIG.latent_channels, -1) + np.arange(CONFIG.latent_channels) / 9
        )
        return Posterior(np.concatenate([mean, np.sin(5 * mean) - 1], axis=-1))

    def decode(self, latents):
        return np.sin(latents[..., :3]).repeat(4, 1).repeat(8, 2).repeat(8, 3) * 1.3


class Wrapper:
    """As it should be; its parts are replaced below."""

    config = CONFIG

    def __init__(self, vae):
        self.vae = vae

    def encode(self, x):
        moments = self.vae.encode(self.before(x).movedim(1, -1).numpy()).moments
        return SimpleNamespace(latent_dist=self.posterior(DiagonalGaussianDistribution(_first(moments))))

    def decode(self, z):
        return SimpleNamespace(sample=self.after(_first(self.vae.decode(self.latents(z).movedim(1, -1).numpy()))))

    def before(self, x):
        return x

    def latents(self, z):
        return z

    def posterior(self, found):
        return found

    def after(self, video):
        return video

    def drawn(self, found): return found.sample  # fmt: skip


def _first(array):
    return arrays.to_torch(np.asarray(array)).movedim(-1, 1)


def drawing(draw):
    return lambda self, found: SimpleNamespace(sample=lambda generator: draw(found, generator))


def raising(*_):
    raise PortRaised("encode of the pipeline wrapper raised KeyError: 'x'")


def of_the_variance(found, generator):
    return found.mean + found.var * torch.randn(found.mean.shape, generator=generator, dtype=found.mean.dtype)


TO_HALF = "maps its video from [-1, 1] to [0, 1]"
WRONG = {
    "scaled twice": ({"latents": lambda self, z: z / FACTOR}, ["decode divides latents by the scaling factor"]),
    "scaled back": ({"latents": lambda self, z: z * FACTOR}, ["decode multiplies latents by the scaling factor"]),
    "from 0 to 1": ({"after": lambda self, v: (v + 1) / 2}, [f"decode {TO_HALF}"]),
    "from 0 to 1, clipped": ({"after": lambda self, v: ((v + 1) / 2).clamp(0, 1)}, [f"decode {TO_HALF}, clipped"]),
    "bytes": ({"after": lambda self, v: (v + 1) * 127.5}, ["decode maps its video from [-1, 1] to [0, 255]"]),
    "other axes out": ({"after": lambda self, v: v.transpose(1, 2)}, ["decode gives [b, t, c, h, w]"]),
    "height for width": ({"after": lambda self, v: v.transpose(3, 4)}, ["decode gives [b, c, t, w, h]"]),
    "other axes in": ({"latents": lambda self, z: z.transpose(1, 2)}, ["decode takes [b, t, c, h, w]"]),
    "two at once": (
        {"latents": lambda self, z: z / FACTOR, "after": lambda self, v: v.movedim(1, -1)},
        ["decode divides latents by the scaling factor", "decode gives [b, t, h, w, c]"]),
    "the mode": ({"posterior": drawing(lambda found, _: found.mode())}, ["encode gives the posterior's mode"]),
    "the variance": (
        {"posterior": drawing(of_the_variance)}, ["encode takes the variance for a standard deviation"]),
    "scaled latents": (
        {"posterior": drawing(lambda found, generator: found.sample(generator) * FACTOR)},
        ["encode multiplies latents by the scaling factor"]),
    "a mode that is scaled": (
        {"posterior": drawing(lambda found, _: found.mode() * FACTOR)},
        ["encode gives the posterior's mode", "encode multiplies latents by the scaling factor"]),
    "video from 0 to 1": ({"before": lambda self, x: (x + 1) / 2}, [f"encode {TO_HALF}"]),
    "video mapped twice": (
        {"before": lambda self, x: 2 * x - 1}, ["encode maps its video from [0, 1] to [-1, 1], where it is already"]),
    "another config": ({"config": CONFIG.model_copy(update={"scaling_factor": 1.0})}, ["config.scaling_factor"]),
    "raises": ({"encode": raising}, ["encode"]),
    "something else": ({"after": lambda self, v: v**3}, ["decode"]),
}  # fmt: skip


def causes(wrapper, **of_vae) -> list[str]:
    vae = Made(wrapper)
    vars(vae).update(of_vae)
    return [finding.cause.removeprefix("pipeline wrapper: ") for finding in of_wrapper(vae, 0)]


@pytest.mark.parametrize("case", WRONG)
def test_what_a_wrapper_does_wrong_is_named_alone(case):
    parts, expected = WRONG[case]
    assert causes(type("Wrong", (Wrapper,), parts)) == expected


RIGHT = {
    "as it should be": {},
    "clipped, as a pipeline does": {"after": lambda self, v: v.clamp(-1, 1)},
    "in float32": {
        "posterior": lambda self, found: DiagonalGaussianDistribution(found.parameters.float()),
        "after": lambda self, v: v.float(),
    },
}


@pytest.mark.parametrize("case", RIGHT)
def test_of_a_right_wrapper_nothing_is_said(case):
    assert causes(type("Right", (Wrapper,), RIGHT[case])) == []


def test_of_a_vae_without_a_log_variance_the_draw_is_not_judged_and_the_mode_is_named():
    assert causes(Wrapper, capabilities=CAPABILITIES - {"moments"}) == []
    mode = type("Mode", (Wrapper,), {"posterior": drawing(lambda found, _: found.mode())})
    assert causes(mode, capabilities=CAPABILITIES - {"moments"}) == ["encode gives the posterior's mode"]


def test_findings_of_a_wrapper_are_about_pipelines_alone_and_say_by_how_much_they_hold():
    (finding,) = of_wrapper(Made(type("Wrong", (Wrapper,), WRONG["scaled twice"][0])), 0)
    assert (finding.kind, finding.about, finding.operations) == ("signature", "pipeline", ("decode",))
    assert finding.headline == (
        "The pipeline wrapper's decode divides latents by the scaling factor: a pipeline does that itself."
    )
    assert finding.evidence[0].startswith("The port's own decode with that done to it gives the wrapper's answer to 0;")

    def refused(self):
        raise PortError("as_diffusers raised TypeError")

    (finding,) = of_wrapper(type("Refusing", (Made,), {"as_diffusers": refused})(), 0)
    assert (finding.kind, finding.headline) == ("raises", "as_diffusers raised TypeError.")
