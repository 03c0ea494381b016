"""Posterior: the diagonal Gaussian that an encoder returns."""

from __future__ import annotations

import contextlib
import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from twinvae.arrays import Pickled, dtype_scope

# diffusers' DiagonalGaussianDistribution clamps to the same range.
LOGVAR_RANGE = (-30.0, 20.0)
Array = Any  # NumPy's or JAX's; inside, where JAX computes, JAX's


@dataclass(frozen=True)
class Posterior(Pickled):
    """Mean and log-variance per latent value, from the encoder's moments.

    The same key gives the same sample from every backend, the reference included.

    Args:
        moments: the encoder's output, mean and log-variance one after the other along the channels. A NumPy array
            (from the reference) gives NumPy results, a JAX array JAX results.
    """

    moments: Float[Array, "b t h w 2*c"]

    def _in_scope(self, compute: Any) -> Any:
        import jax.numpy as jnp

        with dtype_scope(self.moments.dtype):
            result = compute(jnp.asarray(self.moments))
        return np.asarray(result) if isinstance(self.moments, np.ndarray) else result

    @property
    def mean(self) -> Float[Array, "b t h w c"]:
        return self._in_scope(_mean)

    @property
    def logvar(self) -> Float[Array, "b t h w c"]:
        """Log-variance, clamped to [-30, 20]."""
        return self._in_scope(_logvar)

    @property
    def std(self) -> Float[Array, "b t h w c"]:
        return self._in_scope(_std)

    def mode(self) -> Float[Array, "b t h w c"]:
        return self.mean

    def sample(self, key: int | Array) -> Float[Array, "b t h w c"]:
        """Mean plus standard deviation times normal noise.

        Args:
            key: a JAX random key, or a seed: an integer of Python, NumPy, JAX or torch.
        Raises:
            ValueError: anything else.
        """
        import jax

        key = _random_key(key)

        def draw(moments: Array) -> Array:
            mean = _mean(moments)
            return mean + _std(moments) * jax.random.normal(key, mean.shape, mean.dtype)

        return self._in_scope(draw)

    def kl(self) -> Float[Array, " b"]:
        """Kullback-Leibler divergence to the standard normal, in nats, per batch item.

        diffusers' `kl()` is written for images and leaves the width unsummed; this is its sum over the width.
        """
        import jax.numpy as jnp

        def divergence(moments: Array) -> Array:
            mean, logvar = _mean(moments), _logvar(moments)
            return 0.5 * jnp.sum(mean**2 + jnp.exp(logvar) - 1 - logvar, axis=(1, 2, 3, 4))

        return self._in_scope(divergence)


def _random_key(given: Any) -> Array:
    """A JAX random key from a seed or a key."""
    import jax

    with contextlib.suppress(TypeError):  # what is no integer, or one that JAX traces
        given = operator.index(given)
    try:
        if isinstance(given, int):
            fits = -(2**31) <= given < 2**32  # else JAX would take the lower half alone
            with contextlib.nullcontext() if fits else jax.enable_x64(True):
                return jax.random.key(given)
        if jax.dtypes.issubdtype(given.dtype, jax.dtypes.prng_key):
            key = given
        else:
            key = jax.random.key(given) if given.ndim == 0 else jax.random.wrap_key_data(given)
    except (AttributeError, TypeError, ValueError, OverflowError):
        key = None
    if key is None or key.ndim:
        found = f"{repr(given).splitlines()[0]:.80} ({type(given).__name__})"
        raise ValueError(
            f"key is {found}: expected an integer below 2**63, such as key=0, or one JAX random key, such as "
            "jax.random.key(0)"
        )
    return key


def _mean(moments: Array) -> Array:
    return moments[..., : moments.shape[-1] // 2]


def _logvar(moments: Array) -> Array:
    return moments[..., moments.shape[-1] // 2 :].clip(*LOGVAR_RANGE)


def _std(moments: Array) -> Array:
    import jax.numpy as jnp

    return jnp.exp(0.5 * _logvar(moments))
