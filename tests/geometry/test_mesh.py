import numpy as np
import pytest

from spectral_jax.geometry import mesh

CUBE = [(i, i | bit) for i in range(8) for bit in (1, 2, 4) if not i & bit]


def spectrum(edges, num_vertices):
    return np.linalg.eigvalsh(mesh.graph_laplacian(np.array(edges), num_vertices).toarray())


@pytest.mark.parametrize("n", [2, 7, 30])
def test_laplacian_of_a_path_has_the_known_spectrum(n):
    expected = 2 - 2 * np.cos(np.pi * np.arange(n) / n)
    np.testing.assert_allclose(spectrum([(i, i + 1) for i in range(n - 1)], n), expected, atol=1e-12)


@pytest.mark.parametrize("n", [3, 8, 31])
def test_laplacian_of_a_cycle_has_the_known_spectrum(n):
    expected = np.sort(2 - 2 * np.cos(2 * np.pi * np.arange(n) / n))
    np.testing.assert_allclose(spectrum([(i, (i + 1) % n) for i in range(n)], n), expected, atol=1e-12)


def test_laplacian_of_a_cube_has_the_known_spectrum():
    np.testing.assert_allclose(spectrum(CUBE, 8), [0, 2, 2, 2, 4, 4, 4, 6], atol=1e-12)


def test_edges_of_a_closed_mesh_obey_euler(sphere):
    assert len(mesh.edges(sphere.faces, 162)) == 162 + len(sphere.faces) - 2


def test_shared_edges_count_once():
    np.testing.assert_array_equal(
        mesh.edges(np.array([[0, 1, 2], [2, 1, 3]]), 4), [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]]
    )


def test_one_based_faces_are_refused_with_both_numbers(sphere):
    with pytest.raises(ValueError, match=r"vertices 1 to 162, but there are 162 vertices .*1-based"):
        mesh.edges(sphere.faces + 1, 162)


def test_a_face_with_a_repeated_vertex_is_named():
    with pytest.raises(ValueError, match="face 1 names vertex 3 twice"):
        mesh.edges(np.array([[0, 1, 2], [3, 3, 2]]), 4)


def test_fingerprint_is_of_the_connectivity_alone(sphere):
    same = mesh.fingerprint(sphere.faces[::-1, [1, 2, 0]], 162)
    assert mesh.fingerprint(sphere.faces, 162) == same
    assert mesh.fingerprint(sphere.faces[:-1], 162) == same  # the last face's edges are in its neighbours
    assert mesh.fingerprint(sphere.faces, 163) != same
    assert mesh.fingerprint(sphere.faces[:-9], 162) != same


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".off"])
def test_files_keep_vertex_order(sphere, tmp_path, suffix):
    path = tmp_path / f"mesh{suffix}"
    mesh.write_mesh(path, sphere)
    loaded = mesh.read_mesh(path)
    np.testing.assert_allclose(loaded.vertices, sphere.vertices, atol=1e-6)
    np.testing.assert_array_equal(loaded.faces, sphere.faces)


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.ply: no such mesh file"):
        mesh.read_mesh(tmp_path / "none.ply")
    (tmp_path / "bad.ply").write_bytes(b"not a mesh")
    with pytest.raises(ValueError, match=r"bad\.ply: not a readable mesh"):
        mesh.read_mesh(tmp_path / "bad.ply")
    (tmp_path / "lines.obj").write_text("v 0 0 0\nv 1 0 0\nf 1 2 2\n")
    with pytest.raises(ValueError, match=r"lines\.obj: 1 faces"):
        mesh.read_mesh(tmp_path / "lines.obj")
    (tmp_path / "points.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\n")
    with pytest.raises(ValueError, match=r"points\.obj"):
        mesh.read_mesh(tmp_path / "points.obj")
