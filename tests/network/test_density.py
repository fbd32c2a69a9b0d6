"""Densities of latents: their moments, and how many parts a mixture has."""

import jax
import numpy as np
import pytest

from spectral_jax.network import density


def clusters(count, apart=100.0):
    """Latents of two numbers about two points that are far apart along the first."""
    latents = np.random.default_rng(0).standard_normal((count, 2))
    latents[::2, 0] += apart
    return latents.astype(np.float32)


def test_a_mixture_finds_two_clusters_and_samples_stay_in_them():
    fitted = density.fit_mixture(clusters(400))
    assert len(fitted.weights) == 2
    np.testing.assert_allclose(np.sort(fitted.means[:, 0]), [0, 100], atol=0.5)
    drawn = np.asarray(density.sample(jax.random.key(0), fitted, 500))
    assert (np.minimum(np.abs(drawn[:, 0]), np.abs(drawn[:, 0] - 100)) < 8).all()
    assert 0.4 < (drawn[:, 0] > 50).mean() < 0.6
    again = density.fit_mixture(clusters(400))
    for a, b in zip(fitted, again, strict=True):
        np.testing.assert_array_equal(a, b)


def test_few_latents_give_one_gaussian_with_their_moments():
    latents = clusters(39)
    fitted = density.fit_mixture(latents)
    np.testing.assert_array_equal(fitted.weights, [1])
    np.testing.assert_allclose(fitted.means[0], latents.mean(axis=0), rtol=1e-5)
    covariance = np.cov(latents.T, ddof=0)
    np.testing.assert_allclose(fitted.factors[0] @ fitted.factors[0].T, covariance, rtol=1e-3, atol=1e-3)


def test_a_constant_number_stays_constant():
    latents = clusters(100)
    latents[:, 1] = 3
    drawn = density.sample(jax.random.key(0), density.fit_mixture(latents), 50)
    np.testing.assert_allclose(drawn[:, 1], 3)


def test_a_mixture_is_fitted_to_so_many_latents_only(monkeypatch):
    monkeypatch.setattr(density, "MOST_ROWS", 200)
    assert len(density.fit_mixture(clusters(2001)).weights) == 2


def test_bad_latents_are_refused():
    with pytest.raises(ValueError, match="at least 2 latents, not 1"):
        density.fit_mixture(clusters(1))
    latents = clusters(20)
    latents[3, 1] = np.nan
    with pytest.raises(ValueError, match="1 of 20 latents are not finite"):
        density.fit_mixture(latents)


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
