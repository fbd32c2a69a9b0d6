import dataclasses
import sys

import numpy as np
import pytest
from helpers import Counted
from rounding import product_rounding

from spectral_jax.basis import spectral
from spectral_jax.basis.quality import quality
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.geometry import mesh


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
    tolerance = product_rounding(sphere_basis.modes, coefficients[0])
    np.testing.assert_allclose(spectral.reconstruct(sphere_basis, coefficients), vertices, atol=tolerance)
    tolerance = product_rounding(sphere_basis.modes.T, vertices[0])
    np.testing.assert_allclose(spectral.project(sphere_basis, vertices[0]), coefficients[0], atol=tolerance)


def test_truncation_is_the_nearest_mesh_of_the_first_modes(sphere, sphere_basis):
    low = spectral.truncate(sphere_basis, 20)
    vertices = np.random.default_rng(1).normal(size=(162, 3)).astype(np.float32)
    rest = vertices - np.asarray(spectral.reconstruct(low, spectral.project(low, vertices)))
    np.testing.assert_allclose(np.asarray(low.modes).T @ rest, 0, atol=product_rounding(low.modes.T, vertices))


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
    np.testing.assert_array_equal(spectral.fix_signs(modes), spectral.fix_signs(modes * flips))


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
        (lambda b: {"modes": np.asarray(b.modes)[:, :5]}, r"modes \(162, 5\), eigenvalues \(162,\)"),
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


@pytest.fixture(scope="module")
def cotangent_basis(unit_sphere):
    return spectral.compute(unit_sphere.faces, 642, 64, unit_sphere.vertices)


@pytest.fixture(scope="module")
def unit_sphere():
    import trimesh

    made = trimesh.creation.icosphere(subdivisions=3)
    return mesh.Mesh(np.asarray(made.vertices, np.float32), np.asarray(made.faces, np.int32))


def test_cotangent_modes_are_spherical_harmonics(unit_sphere, cotangent_basis):
    """Eigenvalues l (l + 1) per square metre, 2 l + 1 of each."""
    degrees = np.repeat(np.arange(5), 2 * np.arange(5) + 1)
    np.testing.assert_allclose(cotangent_basis.eigenvalues[:25], degrees * (degrees + 1), rtol=0.03, atol=1e-9)
    positions = np.asarray(spectral.project(cotangent_basis, unit_sphere.vertices))
    assert abs(positions[1:4]).max() > 10  # the coordinates are the harmonics of degree 1
    assert abs(np.delete(positions, [1, 2, 3], axis=0)).max() < 0.02
    doubled = spectral.compute(unit_sphere.faces, 642, 9, 2 * unit_sphere.vertices)
    np.testing.assert_allclose(doubled.eigenvalues[1:], cotangent_basis.eigenvalues[1:9] / 4, rtol=1e-9)
    np.testing.assert_allclose(doubled.mass, cotangent_basis.mass, rtol=1e-6)


def test_cotangent_modes_are_orthonormal_under_the_mass(cotangent_basis):
    assert (cotangent_basis.operator, cotangent_basis.mass.dtype) == ("cotangent", np.float32)
    assert cotangent_basis.mass.mean() == pytest.approx(1, abs=1e-6)
    modes = np.asarray(cotangent_basis.modes, np.float64)
    np.testing.assert_allclose(modes.T @ (modes * cotangent_basis.mass[:, None]), np.eye(64), atol=1e-6)
    assert abs(modes.T @ modes - np.eye(64)).max() > 1e-3
    coefficients = np.random.default_rng(6).normal(size=(2, 64, 3)).astype(np.float32)
    again = spectral.project(cotangent_basis, spectral.reconstruct(cotangent_basis, coefficients))
    np.testing.assert_allclose(again, coefficients, atol=1e-5)


def test_cotangent_full_rank_round_trip(sphere):
    stretched = sphere.vertices * np.array([1.0, 2.0, 0.5], np.float32)
    basis = spectral.compute(sphere.faces, 162, None, stretched)
    vertices = np.random.default_rng(7).normal(size=(2, 162, 3)).astype(np.float32)
    np.testing.assert_allclose(spectral.reconstruct(basis, spectral.project(basis, vertices)), vertices, atol=2e-5)


def test_a_file_keeps_the_mass(cotangent_basis, tmp_path):
    spectral.save(tmp_path / "basis.npz", cotangent_basis)
    loaded = spectral.load(tmp_path / "basis.npz")
    np.testing.assert_array_equal(loaded.mass, cotangent_basis.mass)
    np.testing.assert_array_equal(spectral.truncate(loaded, 5).mass, cotangent_basis.mass)
    for mass, message in ((-loaded.mass, "positive"), (loaded.mass[:-1], r"mass \(641,\), expected \(642,\)")):
        path = damaged(loaded, tmp_path / "damaged.npz", mass=mass)
        with pytest.raises(ValueError, match=rf"damaged\.npz: .*{message}"):
            spectral.load(path)
    with pytest.raises(ValueError, match=r"damaged\.npz: modes are not orthonormal"):
        spectral.load(damaged(loaded, tmp_path / "damaged.npz"))


def test_bases_of_two_operators_are_not_the_same(unit_sphere, cotangent_basis):
    graph = spectral.compute(unit_sphere.faces, 642, 8)
    with pytest.raises(ValueError, match="a is of the graph operator, b of the cotangent operator"):
        spectral.check_same(graph, cotangent_basis, ("a", "b"))


def test_the_cotangent_operator_names_the_extra_that_it_needs(sphere, monkeypatch):
    monkeypatch.setitem(sys.modules, "robust_laplacian", None)
    with pytest.raises(ValueError, match=r"needs robust-laplacian: pip install 'spectral-jax\[cotangent\]'"):
        spectral.compute(sphere.faces, 162, 4, sphere.vertices)


def test_the_sparse_solver_gives_the_same_basis(unit_sphere, cotangent_basis, monkeypatch):
    counted = Counted()
    monkeypatch.setattr(spectral, "DENSE", 100)
    sparse = spectral.compute(unit_sphere.faces, 642, 64, unit_sphere.vertices, counted)
    assert (counted.done[0], counted.done[-1], spectral.solver(642, 64)) == (0, 64, "sparse")
    np.testing.assert_allclose(sparse.eigenvalues, cotangent_basis.eigenvalues, atol=1e-7)
    assert abs(spectral.orthonormality_error(sparse.modes, sparse.mass)) < 1e-6


def test_quality_of_a_good_basis(sphere_basis, unit_sphere, cotangent_basis):
    found = quality(sphere_basis)
    assert (found.residual < 1e-6, found.orthonormality < 1e-6) == (True, True)
    assert found.repeated > 100  # of 162: a sphere's eigenvalues are repeated
    assert len(found.smallest_gaps) == 5
    assert found.smallest_gaps[0][1] < 1e-12
    assert quality(spectral.truncate(sphere_basis, 1)) == (
        pytest.approx(0, abs=1e-6),
        pytest.approx(0, abs=1e-6),
        [],
        0,
    )
    found = quality(cotangent_basis, unit_sphere.vertices)
    assert (found.residual < 1e-5, found.orthonormality < 1e-6) == (True, True)
    without = quality(cotangent_basis)
    assert (without.residual, without.orthonormality) == (None, found.orthonormality)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda b: {"eigenvalues": b.eigenvalues * 1.001}, "residual"),
        (lambda b: {"modes": np.roll(b.modes, 1, axis=0)}, "residual"),
        (lambda b: {"modes": np.asarray(b.modes) * np.float32(1.001)}, "orthonormality"),
    ],
)
def test_quality_of_a_bad_basis(sphere_basis, change, name):
    assert getattr(quality(dataclasses.replace(sphere_basis, **change(sphere_basis))), name) > 2e-4


def test_a_cotangent_basis_of_another_shape_is_noticed(unit_sphere, cotangent_basis):
    for other in (unit_sphere.vertices * np.array([1, 1, 1.1], np.float32), unit_sphere.vertices * np.float32(1.01)):
        assert quality(cotangent_basis, other).residual > 1e-3
