import numpy as np
import pytest
import trimesh

from spectral_jax.geometry import scans
from spectral_jax.geometry.scans import Scan


@pytest.mark.parametrize("name", ["cloud.ply", "cloud.npy", "cloud.obj"])
def test_point_clouds_need_no_faces(name, tmp_path):
    points = np.random.default_rng(0).normal(size=(70, 3)).astype(np.float32)
    if name.endswith("npy"):
        np.save(tmp_path / name, points)
    elif name.endswith("obj"):
        (tmp_path / name).write_text("".join(f"v {x} {y} {z}\n" for x, y, z in points))
    else:
        trimesh.PointCloud(points).export(tmp_path / name)
    found = scans.read_scan(tmp_path / name, "mm")
    np.testing.assert_allclose(found.vertices, points / 1000, rtol=1e-6)
    assert found.faces.shape == (0, 3)
    np.testing.assert_array_equal(scans.sample(found), found.vertices)


def test_samples_of_a_mesh_are_spread_by_area(sphere):
    vertices = sphere.vertices.astype(np.float64)
    found = scans.sample(Scan(vertices, sphere.faces), 4000)
    # within 4 standard deviations of a binomial count of 4,000 at one half
    assert abs((found[:, 0] > 0).sum() - 2000) < 4 * np.sqrt(4000 / 4)
    planes = np.linalg.norm(found, axis=1)
    assert planes.max() <= 1 + 1e-6
    assert planes.min() > 0.9  # no point off the surface: a face's plane is so near the sphere
    np.testing.assert_array_equal(found, scans.sample(Scan(vertices, sphere.faces), 4000))


def test_unusable_scans_are_named(tmp_path):
    np.save(tmp_path / "flat.npy", np.zeros((5, 2)))
    with pytest.raises(ValueError, match=r"flat.npy.*\(5, 2\)"):
        scans.read_scan(tmp_path / "flat.npy")
    np.save(tmp_path / "empty.npy", np.zeros((0, 3)))
    with pytest.raises(ValueError, match=r"empty.npy"):
        scans.read_scan(tmp_path / "empty.npy")
    np.save(tmp_path / "nan.npy", np.array([[0, 0, np.nan], [1, 2, 3]]))
    with pytest.raises(ValueError, match=r"nan.npy: 1 of 2"):
        scans.read_scan(tmp_path / "nan.npy")
    (tmp_path / "text.ply").write_text("no mesh")
    with pytest.raises(ValueError, match=r"text.ply"):
        scans.read_scan(tmp_path / "text.ply")
    with pytest.raises(ValueError, match=r"missing.obj"):
        scans.read_scan(tmp_path / "missing.obj")


def test_landmarks_are_lines_of_text(tmp_path):
    path = tmp_path / "marks.txt"
    path.write_text("# nose\n12 1 2 3\n\n0, 10, 20, 30\n")
    vertices, places = scans.read_landmarks(path, "cm")
    assert vertices.tolist() == [12, 0]
    np.testing.assert_allclose(places, [[0.01, 0.02, 0.03], [0.1, 0.2, 0.3]])
    for text, what in (("1 2 3\n", "line 1"), ("# x\n1.5 1 2 3\n", "line 2"), ("", "no landmarks")):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"marks.txt.*{what}"):
            scans.read_landmarks(path)
