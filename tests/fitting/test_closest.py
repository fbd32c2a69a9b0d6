import jax
import numpy as np
import trimesh

from spectral_jax.fitting import closest
from spectral_jax.fitting.closest import near_faces

closest_points = jax.jit(closest.closest_points)


def test_no_point_of_the_surface_is_closer(sphere):
    random = np.random.default_rng(0)
    points = random.normal(size=(60, 3)).astype(np.float32)
    near = near_faces(sphere.vertices, sphere.faces, points, 12)
    found = closest_points(sphere.vertices, sphere.faces, points, near)
    weights, corners = np.asarray(found.weights), np.asarray(found.corners)
    assert weights.min() >= -1e-5
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    feet = np.einsum("pk,pkc->pc", weights, sphere.vertices[corners])
    distances = np.linalg.norm(feet - points, axis=1)
    np.testing.assert_allclose(found.distances, distances, atol=1e-5)
    surface = trimesh.sample.sample_surface(trimesh.Trimesh(*sphere, process=False), 20_000, seed=0)[0]
    others = np.linalg.norm(surface[None] - points[:, None], axis=2).min(axis=1)
    assert (distances <= others + 1e-5).all()
    assert (distances >= others - 0.05).all()  # 20,000 samples leave no such gap on a unit sphere


def test_corners_edges_and_the_inside_of_a_triangle():
    vertices = np.array([[0, 0, 0], [2, 0, 0], [0, 2, 0]], np.float32)
    points = np.array([[0.5, 0.5, 3], [-1, -1, 0], [1, -2, 0], [2, 2, 0]], np.float32)
    near = near_faces(vertices, np.array([[0, 1, 2]]), points, 8)
    assert near.shape == (4, 1)  # a mesh of one face has one
    found = closest_points(vertices, np.array([[0, 1, 2]]), points, near)
    feet = np.einsum("pk,pkc->pc", found.weights, vertices[np.asarray(found.corners)])
    np.testing.assert_allclose(feet, [[0.5, 0.5, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0]], atol=1e-6)


def test_a_face_without_area_is_a_line():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0]], np.float32)
    points = np.array([[1.5, 1, 0]], np.float32)
    found = closest_points(vertices, np.array([[0, 1, 2]]), points, np.zeros((1, 1), np.int32))
    np.testing.assert_allclose(found.distances, [1], atol=1e-6)
