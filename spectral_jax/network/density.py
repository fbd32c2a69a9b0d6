"""Densities of latents, to draw random ones from: one Gaussian, or a mixture of several."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spectral_jax.geometry.sampling import evenly_spaced
from spectral_jax.network import principal

NUM_PARTS = (1, 2, 4, 8, 16, 32)  # numbers of Gaussians among which the criterion chooses
ROWS_PER_NUMBER = 10  # a part needs this many times as many latents as a latent has numbers
MOST_ROWS = 20_000  # evenly spaced latents that a mixture is fitted to: time and memory do not grow beyond


class Gaussian(NamedTuple):
    """A normal distribution of latents: its covariance is factor @ factor.T, its spread the norm of the factor."""

    mean: Float[Array | np.ndarray, "latent"]
    factor: Float[Array | np.ndarray, "latent component"]


class Mixture(NamedTuple):
    """Gaussians, one of which is drawn with its weight: the covariance of part p is factors[p] @ factors[p].T."""

    weights: Float[Array | np.ndarray, "part"]
    means: Float[Array | np.ndarray, "part latent"]
    factors: Float[Array | np.ndarray, "part latent latent"]


def fit_gaussian(latents: Float[Array | np.ndarray, "mesh latent"]) -> Gaussian:
    """The Gaussian with the mean and the covariance of latents. Raises ValueError for under 2 latents."""
    if len(latents) < 2:
        raise ValueError(f"a covariance needs at least 2 latents, not {len(latents)}")
    mean, components, deviations = principal.fit(np.asarray(latents), latents.shape[1])
    return Gaussian(mean, components.T * deviations[None])


def fit_mixture(latents: Float[Array | np.ndarray, "mesh latent"], seed: int = 0) -> Mixture:
    """The mixture of 1, 2, 4, ... 32 Gaussians with the lowest Bayesian information criterion (Schwarz 1978).

    Expectation-maximisation with full covariances, on up to 20,000 of the latents. Each part needs 10 latents for each
    number in one, so few latents give one Gaussian. Raises ValueError for under 2 latents or one that is not finite.
    """
    from sklearn.mixture import GaussianMixture

    if len(latents) < 2:
        raise ValueError(f"a covariance needs at least 2 latents, not {len(latents)}")
    rows = np.asarray(latents, np.float64)[evenly_spaced(len(latents), MOST_ROWS)]
    if wrong := np.flatnonzero(~np.isfinite(rows).all(axis=1)).size:
        raise ValueError(f"{wrong} of {len(rows)} latents are not finite")
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    rows = (rows - mean) / np.where(scale > 0, scale, 1)  # the floor of the covariances is one of unit latents
    most = max(1, len(rows) // (ROWS_PER_NUMBER * rows.shape[1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fit that improves still: the criterion judges it as it is
        fits = [GaussianMixture(parts, random_state=seed).fit(rows) for parts in NUM_PARTS if parts <= most]
    best = min(fits, key=lambda fit: fit.bic(rows))
    factors = np.linalg.cholesky(np.asarray(best.covariances_)) * scale[:, None]
    return Mixture(*(np.asarray(x, np.float32) for x in (best.weights_, best.means_ * scale + mean, factors)))


def sample(key: Array, density: Gaussian | Mixture, count: int) -> Float[Array, "count latent"]:
    """`count` random latents of a density."""
    if isinstance(density, Gaussian):
        normal = jax.random.normal(key, (count, density.factor.shape[1]))
        return jnp.einsum("nc,lc->nl", normal, density.factor, precision="highest") + density.mean[None]
    part_key, key = jax.random.split(key)
    parts = jax.random.choice(part_key, len(density.weights), (count,), p=jnp.asarray(density.weights))
    normal = jax.random.normal(key, (count, density.means.shape[1]))
    factors = jnp.asarray(density.factors)[parts]
    return jnp.einsum("nc,nlc->nl", normal, factors, precision="highest") + jnp.asarray(density.means)[parts]
