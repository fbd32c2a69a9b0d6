"""Fits of a network that decodes its shapes exactly: principal components of bent ellipsoids without a symmetry."""

import jax
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import spectral_jax as sj
from spectral_jax.basis import spectral
from spectral_jax.fitting import fit, step
from spectral_jax.fitting.fit import fit_prior, fit_scan
from spectral_jax.fitting.step import Fit, Strength, Target
from spectral_jax.geometry.alignment import Similarity
from spectral_jax.geometry.scans import Scan, sample
from spectral_jax.network import networks, principal, residual
from spectral_jax.network.codec import Codec
from spectral_jax.network.config import ModelConfig


def bodies(sphere, count, seed=0):
    """Ellipsoids of 0.4, 1.8 and 0.6 m, bent, with a nose; every one a little different."""
    a, b, c = np.random.default_rng(seed).normal(size=(3, count, 1)) * 0.15
    x, y, z = np.moveaxis(np.broadcast_to(sphere.vertices, (count, *sphere.vertices.shape)), 2, 0)
    nose = np.exp(-8 * ((z - 1) ** 2 + (y - 0.5) ** 2))
    bent = 0.3 * (1 + c) * z + 0.15 * (1 + b) * (y**2 - 0.3) + 0.3 * nose
    return np.stack([0.2 * x + 0.1 * a * y * y, 0.9 * (1 + a) * y, bent], -1).astype(np.float32)


@pytest.fixture(scope="module")
def codec(sphere, sphere_basis):
    basis = spectral.truncate(sphere_basis, 60)
    coefficients = np.asarray(spectral.project(basis, bodies(sphere, 60)))
    config = ModelConfig(modes=60, latent_size=4, network="residual", directions=4, hidden_size=8)
    found = residual.constants(principal.fit(coefficients, 4))
    return Codec(
        networks.build(config), *jax.device_put((networks.init_params(config, jax.random.key(0)), basis, found))
    )


@pytest.fixture(scope="module")
def latents(codec, sphere):
    return codec.encode_vertices(bodies(sphere, 60))


@pytest.fixture(scope="module")
def prior(latents):
    return fit_prior(latents)


@pytest.fixture(scope="module")
def shape(codec, latents):
    """A shape that the network decodes."""
    return codec.decode_vertices(latents[7:8])[0]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Few points and starts, as many in both levels: one program to compile."""
    monkeypatch.setattr(fit, "COARSE", fit.COARSE._replace(points=NUM_POINTS))
    monkeypatch.setattr(fit, "FINE", fit.FINE._replace(points=NUM_POINTS))
    monkeypatch.setattr(fit, "NUM_STARTS", NUM_STARTS)
    monkeypatch.setattr(fit, "NUM_FINALISTS", NUM_STARTS)


NUM_POINTS, NUM_STARTS = 256, 6
POSE = Similarity(Rotation.from_quat((1, -2, 3, 1)).as_matrix(), np.array([2.0, -1.0, 300.0]))


def test_pose_and_shape_are_found_from_a_part_of_a_surface(codec, prior, shape, sphere):
    points = POSE.apply(sample(Scan(shape.astype(np.float64), sphere.faces), 6000))
    points = points[np.argsort(points @ (1.0, 2.0, 0.5))[:4000]]  # a third is cut off
    points += np.random.default_rng(0).normal(size=points.shape) * 0.002
    points[:40] += 1.0  # points of something else
    found = sj.fit_scan(codec, prior, points)
    errors_mm = 1000 * np.linalg.norm(found.vertices - POSE.apply(shape.astype(np.float64)), axis=1)
    assert errors_mm.mean() < 10  # of 1.9 m
    assert found.pose.scale == 1
    decoded = found.pose.apply(codec.decode_vertices(found.latent[None])[0].astype(np.float64))
    np.testing.assert_allclose(found.vertices, decoded, atol=1e-4)  # float32 in metres, about 300 m away in float64


def test_scale_landmarks_and_low_modes(codec, prior, shape, sphere):
    scaled = POSE._replace(scale=0.5)
    bump = shape + 0.05 * np.exp(-10 * np.square(shape - shape[20]).sum(axis=1, keepdims=True)) * (0, 0, 1)
    true = scaled.apply(bump.astype(np.float64))
    points = sample(Scan(true, sphere.faces), 3000)
    marks = np.array([0, 40, 90, 130])
    fits = [fit_scan(codec, prior, points, marks, true[marks], scaled=True, refine_modes=modes) for modes in (0, 30)]
    plain, refined = (np.linalg.norm(found.vertices - true, axis=1).mean() for found in fits)
    assert fits[0].pose.scale == pytest.approx(0.5, rel=0.05)
    assert plain < 0.02
    assert refined < 0.8 * plain  # the bump is no shape of the network's
    assert fits[1].residual.shape == (30, 3)


def test_scans_of_a_batch_do_not_know_each_other(codec, prior, shape, sphere):
    random, count = np.random.default_rng(2), NUM_STARTS
    points = np.stack([shape[:128] + 0.01 * index for index in range(count)]).repeat(2, axis=1).astype(np.float32)
    start = Fit(
        0.1 * random.normal(size=(count, 4)).astype(np.float32),
        np.zeros((count, 0, 3), np.float32),
        Rotation.from_quat(random.normal(size=(count, 4))).as_matrix().astype(np.float32),
        np.zeros((count, 3), np.float32),
        np.ones(count, np.float32),
    )
    target = Target(points, np.zeros((count, 0), np.int32), np.zeros((count, 0, 3), np.float32))
    near = random.integers(0, len(sphere.faces), (count, NUM_POINTS, 8)).astype(np.int32)

    def moved(order):
        parts = jax.tree.map(lambda x: x[order], (start, target, near))
        found, errors = step.improve(codec, prior.density, *parts, Strength(1e-6, 1.0, 0.01), 60, False)
        return [*found, errors]

    plain, turned = moved(np.arange(count)), moved(np.arange(count)[::-1])
    for a, b in zip(plain, turned, strict=True):
        np.testing.assert_allclose(a, b[::-1], rtol=1e-5, atol=1e-6)
    assert not np.allclose(plain[-1][0], plain[-1][1])


def test_what_cannot_be_fitted_is_refused(codec, prior, shape):
    with pytest.raises(ValueError, match=r"49 points.*50"):
        fit_scan(codec, prior, shape[:49])
    with pytest.raises(ValueError, match="1 of 162 points"):
        fit_scan(codec, prior, np.where(np.arange(162)[:, None] == 3, np.nan, shape))
    with pytest.raises(ValueError, match=r"0 to 162 of 162"):
        fit_scan(codec, prior, shape, np.array([0, 162]), shape[:2])
    with pytest.raises(ValueError, match="2 vertices and 1 places"):
        fit_scan(codec, prior, shape, np.array([0, 1]), shape[:1])
    with pytest.raises(ValueError, match=r"61.*60"):
        fit_scan(codec, prior, shape, refine_modes=61)
    with pytest.raises(ValueError, match="2 latents"):
        fit_prior(np.zeros((1, 4), np.float32))
