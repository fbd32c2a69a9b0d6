"""Densities of latents, to draw random ones from."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spectral_jax.network import principal


class Gaussian(NamedTuple):
    """A normal distribution of latents: its covariance is factor @ factor.T, its spread the norm of the factor."""

    mean: Float[Array | np.ndarray, "latent"]
    factor: Float[Array | np.ndarray, "latent component"]


def fit_gaussian(latents: Float[Array | np.ndarray, "mesh latent"]) -> Gaussian:
    """The Gaussian with the mean and the covariance of latents. Raises ValueError for under 2 latents."""
    if len(latents) < 2:
        raise ValueError(f"a covariance needs at least 2 latents, not {len(latents)}")
    mean, components, deviations = principal.fit(np.asarray(latents), latents.shape[1])
    return Gaussian(mean, components.T * deviations[None])


def sample(key: Array, gaussian: Gaussian, count: int) -> Float[Array, "count latent"]:
    """`count` random latents of a Gaussian."""
    normal = jax.random.normal(key, (count, gaussian.factor.shape[1]))
    return jnp.einsum("nc,lc->nl", normal, gaussian.factor, precision="highest") + gaussian.mean[None]
