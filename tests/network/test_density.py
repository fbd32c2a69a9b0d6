"""The Gaussian of latents: its moments, and those of its samples."""

import jax
import numpy as np
import pytest

from spectral_jax.network import density


def test_gaussian_has_the_mean_and_covariance_of_the_latents_and_so_have_its_samples():
    latents = np.random.default_rng(0).standard_normal((40, 4), np.float32) * np.array([1, 2, 3, 4], np.float32) + 5
    gaussian = density.fit_gaussian(latents)
    covariance = np.cov(latents.T)
    np.testing.assert_allclose(gaussian.mean, latents.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(gaussian.factor @ gaussian.factor.T, covariance, rtol=1e-4, atol=1e-4)
    drawn = np.asarray(density.sample(jax.random.key(1), gaussian, 20_000))
    np.testing.assert_allclose(drawn.mean(axis=0), gaussian.mean, atol=0.1)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.03 * covariance.max())
    few = density.fit_gaussian(latents[:3])  # fewer latents than they have numbers
    np.testing.assert_allclose(few.factor @ few.factor.T, np.cov(latents[:3].T), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="at least 2 latents, not 1"):
        density.fit_gaussian(latents[:1])
