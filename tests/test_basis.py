import numpy as np
import pytest

from spectral_jax import basis as spectral
from spectral_jax import mesh
from spectral_jax.basis import SpectralBasis


def test_modes_are_orthonormal_eigenvectors_in_ascending_order(sphere, sphere_basis):
    modes = np.asarray(sphere_basis.modes, np.float64)
    np.testing.assert_allclose(modes.T @ modes, np.eye(162), atol=1e-6)
    laplacian = mesh.graph_laplacian(mesh.edges(sphere.faces, 162), 162)
    np.testing.assert_allclose(laplacian @ modes, modes * sphere_basis.eigenvalues, atol=1e-5)
    assert (np.diff(sphere_basis.eigenvalues) >= -1e-12).all()
    assert abs(sphere_basis.eigenvalues[0]) < 1e-12


def test_few_modes_are_the_first_of_all(sphere, sphere_basis):
    few = spectral.compute(sphere.faces, 162, 9)
    np.testing.assert_allclose(few.eigenvalues, sphere_basis.eigenvalues[:9], atol=1e-10)
    # inside an eigenspace (1 + 3 + 5 on a sphere) only the span is unique
    for a, b in ((0, 1), (1, 4), (4, 9)):
        np.testing.assert_allclose(
            few.modes[:, a:b] @ few.modes[:, a:b].T,
            sphere_basis.modes[:, a:b] @ sphere_basis.modes[:, a:b].T,
            atol=1e-5,
        )


def test_full_rank_round_trip(sphere, sphere_basis):
    vertices = np.random.default_rng(0).normal(size=(3, 162, 3)).astype(np.float32)
    coefficients = spectral.project(sphere_basis, vertices)
    np.testing.assert_allclose(spectral.reconstruct(sphere_basis, coefficients), vertices, atol=1e-5)
    np.testing.assert_allclose(spectral.project(sphere_basis, vertices[0]), coefficients[0], atol=1e-6)


def test_truncation_is_the_nearest_mesh_of_the_first_modes(sphere, sphere_basis):
    low = spectral.truncate(sphere_basis, 20)
    vertices = np.random.default_rng(1).normal(size=(162, 3)).astype(np.float32)
    rest = vertices - np.asarray(spectral.reconstruct(low, spectral.project(low, vertices)))
    np.testing.assert_allclose(np.asarray(low.modes).T @ rest, 0, atol=1e-5)


def test_relabelling_vertices_with_their_basis_changes_nothing(sphere, sphere_basis):
    order = np.random.default_rng(2).permutation(162)
    faces = np.argsort(order)[sphere.faces].astype(np.int32)
    relabelled = SpectralBasis(np.asarray(sphere_basis.modes)[order], sphere_basis.eigenvalues, faces)
    laplacian = mesh.graph_laplacian(mesh.edges(faces, 162), 162)
    np.testing.assert_allclose(laplacian @ relabelled.modes, relabelled.modes * relabelled.eigenvalues, atol=1e-4)
    np.testing.assert_allclose(
        spectral.project(relabelled, sphere.vertices[order]), spectral.project(sphere_basis, sphere.vertices), atol=1e-5
    )


def test_signs_do_not_depend_on_the_solver():
    modes = np.linalg.qr(np.random.default_rng(3).normal(size=(50, 50)))[0]
    flips = np.random.default_rng(4).choice([-1, 1], 50)
    np.testing.assert_array_equal(spectral.orient(modes), spectral.orient(modes * flips))


def test_isolated_vertices_are_refused(sphere):
    with pytest.raises(ValueError, match="1 of 163 vertices belong to no face, the first is 162"):
        spectral.compute(sphere.faces, 163)


def test_several_components_warn_with_their_number(sphere):
    twice = np.concatenate([sphere.faces, sphere.faces + 162])
    with pytest.warns(UserWarning, match="2 components"):
        computed = spectral.compute(twice, 324, 5)
    np.testing.assert_allclose(computed.eigenvalues[:2], 0, atol=1e-10)


def test_more_modes_than_vertices_are_refused(sphere):
    with pytest.raises(ValueError, match="163 modes asked for, a mesh of 162 vertices has 162"):
        spectral.compute(sphere.faces, 162, 163)


def test_wrong_shapes_are_refused_with_both_numbers(sphere_basis):
    with pytest.raises(ValueError, match="161 vertices, the basis has 162"):
        spectral.project(sphere_basis, np.zeros((161, 3), np.float32))
    with pytest.raises(ValueError, match="163 modes, the basis has 162"):
        spectral.reconstruct(sphere_basis, np.zeros((163, 3), np.float32))


def test_file_round_trip_is_exact(sphere_basis, tmp_path):
    spectral.save(tmp_path / "basis.npz", sphere_basis)
    loaded = spectral.load(tmp_path / "basis.npz")
    np.testing.assert_array_equal(loaded.modes, sphere_basis.modes)
    np.testing.assert_array_equal(loaded.eigenvalues, sphere_basis.eigenvalues)
    np.testing.assert_array_equal(loaded.faces, sphere_basis.faces)
    assert [p.name for p in tmp_path.iterdir()] == ["basis.npz"]


def damaged(basis, path, **changes):
    arrays = {
        "modes": np.asarray(basis.modes),
        "eigenvalues": basis.eigenvalues,
        "faces": basis.faces,
        "fingerprint": np.array(basis.fingerprint),
    }
    np.savez(path, **{**arrays, **changes})
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: {"modes": np.asarray(b.modes) * 1.01}, "not orthonormal"),
        (lambda b: {"modes": np.asarray(b.modes)[:, :5]}, "do not fit"),
        (lambda b: {"faces": b.faces[:-9]}, "fingerprint"),
        (lambda b: {"modes": np.full_like(b.modes, np.nan)}, "not orthonormal"),
        (lambda b: {"eigenvalues": np.array([{}], object)}, "not a spectral basis"),
    ],
)
def test_damaged_files_are_refused_and_named(sphere_basis, tmp_path, change, message):
    path = damaged(sphere_basis, tmp_path / "damaged.npz", **change(sphere_basis))
    with pytest.raises(ValueError, match=rf"damaged\.npz: .*{message}"):
        spectral.load(path)


def test_truncated_and_missing_files_are_refused_and_named(sphere_basis, tmp_path):
    spectral.save(tmp_path / "cut.npz", sphere_basis)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "cut.npz").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut\.npz: not a spectral basis"):
        spectral.load(tmp_path / "cut.npz")
    with pytest.raises(ValueError, match=r"none\.npz: no such basis file"):
        spectral.load(tmp_path / "none.npz")


def test_another_basis_of_the_same_mesh_is_noticed(sphere, sphere_basis):
    spectral.check_same(sphere_basis, spectral.truncate(sphere_basis, 7), ("a", "b"))
    signs = np.ones(162, np.float32)
    signs[[3, 8]] = -1
    flipped = SpectralBasis(np.asarray(sphere_basis.modes) * signs, sphere_basis.eigenvalues, sphere_basis.faces)
    with pytest.raises(ValueError, match=r"a and b have different modes \(2 of 162 differ, the first is mode 3\)"):
        spectral.check_same(sphere_basis, flipped, ("a", "b"))
    other = SpectralBasis(sphere_basis.modes, sphere_basis.eigenvalues, sphere.faces[:-9])
    with pytest.raises(ValueError, match="not the same connectivity"):
        spectral.check_same(sphere_basis, other, ("a", "b"))
