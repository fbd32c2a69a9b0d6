import numpy as np
import pytest
from helpers import Counted

from spectral_jax.basis import eigen
from spectral_jax.bodies.smplh import demo_body_path
from spectral_jax.geometry import mesh


def graph(faces):
    """The graph Laplacian (vertex, vertex) of faces that name every vertex."""
    size = int(faces.max()) + 1
    return mesh.graph_laplacian(mesh.edges(np.asarray(faces, np.int32), size), size)


def icosphere(subdivisions):
    import trimesh

    return np.asarray(trimesh.creation.icosphere(subdivisions).faces)


def mirrored():
    """Two components of 162 vertices, one the mirror image of the other."""
    faces = icosphere(2)
    return np.concatenate([faces, faces[:, ::-1] + 162])


def torus(rows, columns):
    """A grid closed both ways, each square cut in two."""
    i, j = np.mgrid[:rows, :columns]
    a, b, c, d = (
        ((i + di) % rows * columns + (j + dj) % columns).ravel() for di, dj in ((0, 0), (1, 0), (1, 1), (0, 1))
    )
    return np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])


def capsule():
    """A body-like mesh of revolution: rings of 16 vertices."""
    import trimesh

    return np.asarray(trimesh.creation.capsule(height=3, radius=0.4, count=(16, 16)).faces)


def body(size):
    with np.load(demo_body_path(size)) as arrays:
        return arrays["f"], arrays["v_template"]


MESHES = {
    "icosphere": lambda: icosphere(3),
    "large icosphere": lambda: icosphere(4),
    "two components": mirrored,
    "torus": lambda: torus(20, 20),
    "capsule": capsule,
    "body": lambda: body(1229)[0],
}


def check_modes(matrix, values, vectors):
    """Orthonormal eigenvectors in ascending order."""
    assert (np.diff(values) >= 0).all()
    assert np.linalg.norm(matrix @ vectors - vectors * values, axis=0).max() < 1e-8
    assert abs(vectors.T @ vectors - np.eye(len(values))).max() < 1e-6


def check_against_dense(matrix, values, vectors):
    """The lowest eigenvalues, and inside each group of equal ones the same space (of the last group a part)."""
    check_modes(matrix, values, vectors)
    count, size = len(values), matrix.shape[0]
    all_values, all_vectors = eigen.dense(matrix, min(size, count + 20))
    np.testing.assert_allclose(values, all_values[:count], atol=1e-9)
    group = np.cumsum(np.diff(all_values, prepend=0) > 1e-7)
    overlap = np.where(group[:, None] == group[:count], all_vectors.T @ vectors, 0)
    np.testing.assert_allclose(np.linalg.norm(overlap, axis=0), 1, atol=1e-9)


def largest_group(values):
    return np.bincount(np.cumsum(np.diff(values, prepend=0) > 1e-7)).max()


@pytest.mark.parametrize(
    ("name", "count", "size", "block", "copies"),
    [
        ("icosphere", 100, 160, 4, 5),
        ("icosphere", 642, 160, 4, 41),
        ("icosphere", 1, 160, 4, 1),
        ("icosphere", 60, 8, 2, 5),
        ("large icosphere", 50, 15, 2, 5),
        ("two components", 100, 30, 2, 10),
        ("torus", 100, 25, 2, 12),
        ("capsule", 100, 20, 2, 2),
        ("body", 150, 40, 4, 1),
        ("body", 1, 160, 4, 1),
    ],
)
def test_modes_are_those_of_the_dense_solver(monkeypatch, name, count, size, block, copies):
    monkeypatch.setattr(eigen, "SLICE", size)
    monkeypatch.setattr(eigen, "BLOCK", block)
    matrix, counted = graph(MESHES[name]()), Counted()
    values, vectors = eigen.sliced(matrix, count, counted)
    check_against_dense(matrix, values, vectors)
    assert largest_group(values) == copies
    assert counted.done == sorted(counted.done)
    assert counted.done[-1] == count
    if name == "two components":
        np.testing.assert_allclose(values[:4], [0, 0, values[2], values[2]], atol=1e-12)


@pytest.mark.parametrize("name", ["torus", "two components"])
def test_a_repeated_eigenvalue_widens_the_block(monkeypatch, name):
    monkeypatch.setattr(eigen, "SLICE", 60)
    monkeypatch.setattr(eigen, "BLOCK", 1)
    blocks, lanczos, matrix = [], eigen.lanczos, graph(MESHES[name]())
    monkeypatch.setattr(eigen, "lanczos", lambda *args: blocks.append(args[-1]) or lanczos(*args))
    check_against_dense(matrix, *eigen.sliced(matrix, 100))
    assert sorted(set(blocks)) == [1, 2]


def test_an_eigenvalue_repeated_too_often_is_an_error(monkeypatch):
    monkeypatch.setattr(eigen, "SLICE", 60)
    monkeypatch.setattr(eigen, "BLOCK", 1)
    monkeypatch.setattr(eigen, "LARGEST_BLOCK", 1)
    with pytest.raises(ValueError, match=r"only \d+ of 100 modes can be told apart"):
        eigen.sliced(graph(torus(20, 20)), 100)


def test_a_factorisation_counts_the_eigenvalues_below_its_shift():
    matrix = graph(capsule()).tocsc()
    values = np.linalg.eigvalsh(matrix.toarray())
    for shift in np.random.default_rng(0).uniform(-0.1, values[-1] + 0.1, 25):
        factor = eigen.factorise(matrix, shift, 0.1)
        assert factor.below == (values < factor.shift).sum()
        assert factor.error < abs(values - factor.shift).min()
        probe = np.random.default_rng(1).standard_normal(len(values))
        np.testing.assert_allclose(matrix @ factor.solve(probe) - factor.shift * factor.solve(probe), probe, atol=1e-6)


def test_a_shift_on_an_eigenvalue_moves_on(monkeypatch):
    octahedron = np.array([[p, q, r] for p in (0, 1) for q in (2, 3) for r in (4, 5)])
    factor = eigen.factorise(graph(octahedron).tocsc(), 4.0, 1.0)  # of 0, 4, 4, 4, 6, 6
    assert (factor.below, factor.shift > 4) == (4, True)

    matrix = graph(torus(18, 18))  # 2 is an eigenvalue, as cos 60 degrees is a half
    values = np.linalg.eigvalsh(matrix.toarray())
    below, copies = int((values < 1.99).sum()), int((abs(values - 2) < 1e-9).sum())
    assert copies > 1
    cuts = [eigen.Cut(-0.1, 0), eigen.Cut(2.0, below), eigen.Cut(2.9, int((values < 2.9).sum()))]
    solve_at, found = eigen.solve_at, []
    monkeypatch.setattr(eigen, "plan", lambda *_: cuts)
    monkeypatch.setattr(eigen, "solve_at", lambda *given: found.append(solve_at(*given)) or found[-1])
    count = below + copies + 5
    check_against_dense(matrix, *eigen.sliced(matrix, count))
    assert 2 < found[1].factor.shift < 2.9


@pytest.mark.parametrize(("times", "largest_block"), [(1, 64), (1000, 64), (1000, 4)])
def test_a_missed_mode_is_noticed(monkeypatch, times, largest_block):
    """Shifts whose fourth mode above is missed are solved again, or end in an error."""
    monkeypatch.setattr(eigen, "SLICE", 40)
    monkeypatch.setattr(eigen, "LARGEST_BLOCK", largest_block)
    matrix, lanczos, join, left, joined = graph(icosphere(3)), eigen.lanczos, eigen.join, [times], []

    def forgetful(solve, size, negative, positive, block):
        if not positive or not left[0]:
            return lanczos(solve, size, negative, positive, block)
        left[0] -= 1
        found = lanczos(solve, size, negative, positive + 1, block)
        return found and (np.delete(found[0], negative + 3), np.delete(found[1], negative + 3, axis=1))

    monkeypatch.setattr(eigen, "lanczos", forgetful)
    monkeypatch.setattr(eigen, "join", lambda *runs: joined.append(join(*runs)) or joined[-1])
    if largest_block > eigen.BLOCK:  # a wider run finds it from the other side
        check_against_dense(matrix, *eigen.sliced(matrix, 100))
    else:
        with pytest.raises(ValueError, match="only 0 of 100 modes can be told apart"):
            eigen.sliced(matrix, 100)
    assert joined[0] is None


def test_the_dense_solver_of_the_device_is_exact_too():
    matrix = graph(icosphere(2))
    check_against_dense(matrix, *eigen.dense_on_device(matrix, 60))


def test_the_same_matrix_gives_the_same_bytes():
    matrix = graph(icosphere(3))
    once, again = eigen.sliced(matrix, 30), eigen.sliced(matrix, 30)
    assert [a.tobytes() for a in once] == [a.tobytes() for a in again]


def test_the_cotangent_matrix_too():
    faces, vertices = body(1229)
    matrix, _ = mesh.laplacian(faces.astype(np.int32), len(vertices), vertices.astype(np.float32))
    norm = abs(matrix).sum(axis=1).max()
    values, vectors = eigen.sliced(matrix, 80)
    check_against_dense(matrix / norm, values / norm, vectors)


@pytest.mark.slow
@pytest.mark.parametrize(("operator", "count"), [("graph", 2048), ("cotangent", 512)])
def test_the_large_body_by_inertia_counts(operator, count):
    faces, vertices = body(12272)
    matrix, _ = mesh.laplacian(
        faces.astype(np.int32), 12272, vertices.astype(np.float32) if operator == "cotangent" else None
    )
    norm = abs(matrix).sum(axis=1).max()
    values, vectors = eigen.sliced(matrix, count)
    check_modes(matrix / norm, values / norm, vectors)
    gaps = np.diff(values)
    for mode in [start + int(gaps[start : start + 64].argmax()) for start in range(0, count - 1, 64)]:
        factor = eigen.factorise(matrix.tocsc(), (values[mode] + values[mode + 1]) / 2, gaps[mode])
        assert (factor.below, factor.error < 0.4 * gaps[mode]) == (mode + 1, True)
