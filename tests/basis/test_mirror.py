import dataclasses

import numpy as np
import pytest
from helpers import bumpy_spheres

from spectral_jax.basis import mirror, spectral
from spectral_jax.bodies.smplh import demo_body_path, load_body, pose_bodies
from spectral_jax.geometry.symmetry import mirror_permutation


@pytest.fixture(scope="module")
def bodies():
    """The body at rest, 1 m away from the middle, and posed bodies."""
    body = load_body(demo_body_path())
    rng = np.random.default_rng(0)
    poses, betas = rng.normal(scale=0.2, size=(4, 156)), rng.normal(size=(4, 16))
    posed = np.asarray(pose_bodies(body, poses, betas))
    with np.load(demo_body_path()) as arrays:
        return body.faces, arrays["v_template"] + np.float32([1, 0, 0]), posed


@pytest.fixture(scope="module", params=["graph", "cotangent"])
def basis(bodies, request):
    """All modes of either operator."""
    faces, rest, _ = bodies
    return spectral.compute(faces, 1229, None, rest if request.param == "cotangent" else None)


def mirrored(faces, rest, meshes):
    """Mirror images of meshes in the plane through the centroid of the shape at rest, vertex by vertex."""
    partner, axis = mirror_permutation(faces, rest)
    images = meshes[:, partner].copy()
    images[..., axis] = 2 * rest[:, axis].mean() - images[..., axis]
    return images


def rounding(coefficients):
    """Bound of the error of a sum of 1,229 products in float32."""
    return 1229 * 2**-24 * np.abs(coefficients).max()


def most_mm(basis, coefficients, vertices):
    """Largest distance in mm of a vertex from where it should be."""
    return 1000 * np.linalg.norm(np.asarray(spectral.reconstruct(basis, coefficients)) - vertices, axis=-1).max()


def test_all_modes_reflect_as_the_vertices_do(bodies, basis):
    faces, rest, posed = bodies
    found, coefficients = mirror.find_mirror(basis, rest), np.asarray(spectral.project(basis, posed))
    reflected = np.asarray(mirror.reflect(found, coefficients))
    expected = spectral.project(basis, mirrored(faces, rest, posed))
    assert found.axis == 0
    assert np.abs(reflected - coefficients).max() > 1
    np.testing.assert_allclose(reflected, expected, atol=rounding(reflected))
    np.testing.assert_allclose(mirror.reflect(found, reflected), coefficients, atol=2 * rounding(reflected))


def test_256_modes_reflect_as_the_smooth_vertices_do(bodies, basis):
    faces, rest, posed = bodies
    fewer = spectral.truncate(basis, 256)
    found, coefficients = mirror.find_mirror(fewer, rest), np.asarray(spectral.project(fewer, posed))
    reflected = np.asarray(mirror.reflect(found, coefficients))
    if basis.operator == "graph":  # its modes are of the connectivity, which is exactly symmetric
        expected = spectral.project(fewer, mirrored(faces, rest, posed))
        np.testing.assert_allclose(reflected, expected, atol=rounding(reflected))
        np.testing.assert_allclose(mirror.reflect(found, reflected), coefficients, atol=2 * rounding(reflected))
    else:  # those of the template at rest are not: one of its vertices is 0.4 mm off
        smooth = np.asarray(spectral.reconstruct(fewer, coefficients))
        assert most_mm(fewer, reflected, mirrored(faces, rest, smooth)) < 3
        assert most_mm(fewer, mirror.reflect(found, reflected), smooth) < 1


def test_repeated_eigenvalues_and_a_last_one_that_truncation_cuts(sphere, sphere_basis):
    meshes = bumpy_spheres(sphere, 3, 0)
    for num_modes, whole in ((162, 162), (25, 25), (23, 21)):  # modes 21 to 24 have one eigenvalue
        kept = spectral.truncate(sphere_basis, num_modes)
        found = mirror.find_mirror(kept, sphere.vertices)
        reflected = mirror.reflect(found, spectral.project(kept, meshes))
        expected = spectral.project(kept, mirrored(sphere.faces, sphere.vertices, meshes))
        np.testing.assert_allclose(reflected[:, :whole], expected[:, :whole], atol=1e-4)


def test_what_has_no_mirror_image_is_refused_with_the_reason(bodies):
    faces, rest, _ = bodies
    lopsided = rest * np.where(rest[:, :1] > 1.2, np.float32([1, 1.5, 1.5]), 1)  # one thick arm
    basis = spectral.compute(faces, 1229, 64, lopsided)
    with pytest.raises(ValueError, match=r"the mirror images of \d+ of 64 modes are not combinations of the modes"):
        mirror.find_mirror(basis, rest)
    with pytest.raises(ValueError, match="nothing mirrors the faces around the edge"):
        mirror.find_mirror(dataclasses.replace(basis, faces=faces[:-1]), rest)
    with pytest.raises(ValueError, match="the shape has 1228 vertices, the basis has 1229"):
        mirror.find_mirror(basis, rest[1:])
