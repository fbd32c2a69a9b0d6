"""The modes of a mesh of several components are those of the whole, found component by component."""

import numpy as np
import pytest
from helpers import Counted

from spectral_jax.basis import components, eigen, formats, spectral
from spectral_jax.bodies.smplh import demo_body_path
from spectral_jax.geometry import mesh
from spectral_jax.geometry.mesh import Mesh

pytestmark = pytest.mark.filterwarnings("ignore:the mesh has")


def part(kind, stretch):
    if kind == "body":
        with np.load(demo_body_path()) as arrays:
            return arrays["v_template"] * stretch, arrays["f"]
    import trimesh

    ball = trimesh.creation.icosphere(kind)
    return np.asarray(ball.vertices) * stretch, np.asarray(ball.faces)


PARTS = {
    "different": [(1, (1, 1.2, 1.5)), (2, (1, 2, 1)), (0, (1, 1, 1.3)), (1, (0.4, 0.5, 0.6))],
    "copies": [(1, (1, 1.2, 1.5)), (2, (1, 2, 1)), (1, (1, 1.2, 1.5)), (0, (1, 1, 1)), (1, (1, 1.2, 1.5))],
    "large": [(1, (1, 1.2, 1.5)), ("body", (1, 1, 1)), (1, (1, 1.2, 1.5)), (0, (1, 1, 1.3))],
}


def mixed(parts):
    """A mesh of these parts side by side, the order of their vertices shuffled, and the part of each vertex."""
    vertices, faces, owner = [], [], []
    for number, (points, triangles) in enumerate(part(*each) for each in parts):
        faces.append(triangles + len(owner))
        vertices.append(points + np.array([4 * number, 0, 0]))
        owner += [number] * len(points)
    order = np.random.default_rng(0).permutation(len(owner))
    shuffled = np.argsort(order)[np.concatenate(faces)].astype(np.int32)
    return Mesh(np.concatenate(vertices)[order].astype(np.float32), shuffled), np.array(owner)[order]


@pytest.mark.parametrize("operator", ["graph", "cotangent"])
@pytest.mark.parametrize(
    ("name", "count"),
    [("different", 3), ("different", 60), ("different", None), ("copies", 60), ("copies", None), ("large", 100)],
)
def test_the_spectrum_is_that_of_the_whole(name, count, operator, monkeypatch):
    if name == "large":  # whose modes are counted, and found by the sparse solver
        monkeypatch.setattr(components, "COUNTED", 0)
        monkeypatch.setattr(spectral, "DENSE", 600)
    whole, owner = mixed(PARTS[name])
    shape = None if operator == "graph" else whole.vertices
    if shape is not None:
        pytest.importorskip("robust_laplacian")
    counted = Counted()
    found = spectral.compute(whole.faces, len(owner), count, shape, counted)
    matrix, mass = mesh.laplacian(whole.faces, len(owner), shape)
    expected, _ = eigen.dense(matrix, found.num_modes)
    norm, modes = abs(matrix).sum(axis=1).max(), np.asarray(found.modes, np.float64)
    np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-9 * norm)
    assert (np.diff(found.eigenvalues) >= 0).all()
    weights = np.ones(len(owner)) if mass is None else mass
    np.testing.assert_allclose(modes.T @ (weights[:, None] * modes), np.eye(found.num_modes), atol=2e-6)
    unit = modes * np.sqrt(weights)[:, None]
    np.testing.assert_allclose(matrix @ unit, unit * found.eigenvalues, atol=1e-6 * norm)
    np.testing.assert_array_equal(spectral.fix_signs(modes), modes)
    assert [len(np.unique(owner[mode != 0])) for mode in modes.T] == [1] * found.num_modes
    assert counted.done == sorted(counted.done)


def test_equal_eigenvalues_are_in_the_order_of_the_components():
    whole, owner = mixed(PARTS["copies"])
    found = spectral.compute(whole.faces, len(owner), 20)
    first = [int(np.flatnonzero(owner == number)[0]) for number in range(5)]
    inside = np.asarray(found.modes)[first, :5] != 0
    assert (inside.argmax(axis=1) == np.argsort(np.argsort(first))).all()  # the component of vertex 0 comes first
    again = spectral.compute(whole.faces, len(owner), 20)
    assert np.asarray(found.modes).tobytes() == np.asarray(again.modes).tobytes()


def test_a_wrong_count_is_noticed(monkeypatch):
    whole, owner = mixed(PARTS["different"])
    expected = spectral.compute(whole.faces, len(owner), 30)
    monkeypatch.setattr(components, "COUNTED", 0)
    monkeypatch.setattr(components, "counts", lambda *_: [2] * 4)
    found = spectral.compute(whole.faces, len(owner), 30)
    np.testing.assert_allclose(found.eigenvalues, expected.eigenvalues, atol=1e-10)


def test_small_components_do_not_each_compile_a_program(monkeypatch):
    monkeypatch.setattr(spectral.jax, "default_backend", lambda: "gpu")
    solvers = [spectral.solver(size, 9) for size in (42, 1229, 9000)]
    assert solvers == ["dense", "dense on the GPU", "sparse"]


def test_a_connected_mesh_is_solved_as_a_whole(sphere, monkeypatch):
    monkeypatch.setattr(components, "lowest", None)
    assert spectral.compute(sphere.faces, 162, 9).num_modes == 9


def test_the_cache_keeps_them_and_not_those_of_older_versions(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECTRAL_JAX_CACHE", str(tmp_path))
    whole, owner = mixed(PARTS["different"])
    old = f"{mesh.fingerprint(whole.faces, len(owner))[:32]}-1-30.npz"
    spectral.save(tmp_path / old, spectral.truncate(formats.cached(whole.faces, len(owner), 40), 30))
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert [name.rsplit("-", 2)[1:] for name in kept] == [["1", "30.npz"], ["2", "40.npz"]]
    (tmp_path / old).write_bytes(b"never read")
    assert formats.cached(whole.faces, len(owner), 30).num_modes == 30
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
