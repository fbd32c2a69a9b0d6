import numpy as np
import pytest

from spectral_jax.bodies.smplh import demo_body_path
from spectral_jax.geometry.symmetry import mirror_permutation


def demo_body(num_vertices):
    with np.load(demo_body_path(num_vertices)) as arrays:
        return arrays["f"], arrays["v_template"]


def renumbered(faces, vertices, seed):
    """The mesh with vertices, faces and first corners in random order, and the new number of each vertex."""
    rng = np.random.default_rng(seed)
    number = rng.permutation(len(vertices))
    shuffled = number[faces][rng.permutation(len(faces))]
    corners = (rng.integers(3, size=(len(faces), 1)) + np.arange(3)) % 3
    return np.take_along_axis(shuffled, corners, axis=1), vertices[np.argsort(number)], number


def with_flipped_edge(faces, index=0):
    """The faces with the first edge of one face turned to join the two corners opposite to it."""
    a, b, c = faces[index]
    other, corner = next((i, k) for i, face in enumerate(faces) for k in range(3) if (face[k], face[k - 2]) == (b, a))
    d = faces[other, corner - 1]
    flipped = faces.copy()
    flipped[[index, other]] = [a, d, c], [d, b, c]
    return flipped


def together(*meshes):
    """The faces and vertices of several meshes as one."""
    firsts = np.cumsum([0, *(len(vertices) for _, vertices in meshes)])
    faces = np.concatenate([faces + first for (faces, _), first in zip(meshes, firsts, strict=False)])
    return faces, np.concatenate([vertices for _, vertices in meshes])


def torus(rows=12, columns=8):
    """Squares with diagonals that alternate."""
    i, j = (grid.ravel() for grid in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
    corners = [(i + di) % rows * columns + (j + dj) % columns for di, dj in ((0, 0), (1, 0), (1, 1), (0, 1))]
    p, q, r, s = np.where((i + j) % 2, corners, np.roll(corners, 1, axis=0))
    a, b = 2 * np.pi * i / rows, 2 * np.pi * j / columns
    ring = 3 + np.cos(b)
    vertices = np.stack([ring * np.cos(a), ring * np.sin(a), np.sin(b)], axis=1)
    return np.concatenate([np.stack([p, q, r], axis=1), np.stack([p, r, s], axis=1)]), vertices


def grid(size=7):
    """A flat sheet in x from -3 to 3; the diagonals of its left half are mirrored in its right half."""
    faces = []
    for i, j in np.ndindex(size - 1, size - 1):
        p, q, r, s = (i + di + (j + dj) * size for di, dj in ((0, 0), (1, 0), (1, 1), (0, 1)))
        faces += [(p, q, r), (p, r, s)] if i < size // 2 else [(p, q, s), (q, r, s)]
    vertices = [(i - size // 2, j, 0.1 * j * j) for j in range(size) for i in range(size)]
    return np.array(faces), np.array(vertices, float)


def check(faces, vertices, axis, distance):
    """The symmetry, after a check of all that it promises."""
    partner, found = mirror_permutation(faces, vertices)
    assert found == axis
    np.testing.assert_array_equal(partner[partner], np.arange(len(vertices)))
    turns = {tuple(np.roll(face, k)) for face in faces.tolist() for k in range(3)}
    assert {tuple(face) for face in partner[faces[:, ::-1]].tolist()} <= turns
    used = np.unique(faces)
    mirrored = vertices - vertices[used].mean(axis=0)
    mirrored[:, axis] *= -1
    np.testing.assert_allclose((vertices - vertices[used].mean(axis=0))[partner[used]], mirrored[used], atol=distance)
    return partner


@pytest.mark.parametrize("num_vertices", [1229, 12272])
def test_left_and_right_of_a_body(num_vertices):
    faces, vertices = demo_body(num_vertices)
    partner = check(faces, vertices, 0, 4e-4)  # the template is as symmetric as that, in metres
    middle = partner == np.arange(num_vertices)
    assert abs(vertices[middle, 0]).max() < 4e-4
    assert 0 < middle.sum() < num_vertices / 20


@pytest.mark.parametrize("seed", range(4))
def test_the_numbers_of_vertices_and_faces_do_not_matter(seed):
    faces, vertices = demo_body(1229)
    partner, axis = mirror_permutation(faces, vertices)
    other_faces, other_vertices, number = renumbered(faces, vertices, seed)
    found = mirror_permutation(other_faces, other_vertices)
    np.testing.assert_array_equal(found.partner[number], number[partner])
    assert found.axis == axis


def test_a_rough_shape_is_enough():
    faces, vertices = demo_body(1229)
    rough = vertices + np.random.default_rng(0).normal(scale=0.03, size=vertices.shape)
    expected, found = mirror_permutation(faces, vertices), mirror_permutation(faces, rough)
    np.testing.assert_array_equal(found.partner, expected.partner)
    assert found.axis == expected.axis


@pytest.mark.parametrize("axis", range(3))
def test_the_shape_chooses_among_the_symmetries_of_a_sphere(sphere, axis):
    x = sphere.vertices.astype(np.float64)
    partner = np.square(x[:, None] * np.where(np.arange(3) == axis, -1, 1) - x[None]).sum(axis=2).argmin(axis=1)
    pear = x + 0.3 * np.where(np.arange(3) == axis, 0, x**2) + np.random.default_rng(0).normal(scale=0.01, size=x.shape)
    found = mirror_permutation(sphere.faces, pear)
    np.testing.assert_array_equal(found.partner, partner)
    assert found.axis == axis


def test_of_equally_near_symmetries_the_first_axis_is_taken(sphere):
    for stretch in ([1, 1, 1], [0.5, 1, 2], [2, 1, 0.5]):
        check(sphere.faces, sphere.vertices * np.array(stretch, np.float32), 0, 1e-6)


def test_a_torus_and_a_sheet_with_a_boundary():
    check(*torus(), axis=0, distance=1e-12)
    faces, vertices = grid()
    partner = check(faces, vertices, 0, 1e-12)
    np.testing.assert_array_equal(partner, np.arange(49).reshape(7, 7)[:, ::-1].ravel())


def test_parts_are_paired_by_position_and_unused_vertices_stay(sphere):
    eyes = [(sphere.faces, sphere.vertices * 0.4 + [side, 2, 0.1]) for side in (-1, 1)]
    faces, vertices = together(*eyes, torus(), grid())
    partner = check(faces, np.concatenate([vertices, [[5, 5, 5]]]), 0, 1e-6)
    for own, other in (((0, 162), (162, 324)), ((324, 420), (324, 420)), ((420, 469), (420, 469)), ((469, 470),) * 2):
        assert set(partner[slice(*own)]) == set(range(*other))


def test_parts_that_touch_in_a_vertex():
    vertices = np.array([[0, 0, 0], [-1, 0, 0], [-1, 1, 0], [1, 0, 0], [1, 1, 0]], float)
    np.testing.assert_array_equal(check(np.array([[0, 1, 2], [0, 4, 3]]), vertices, 0, 1), [0, 3, 4, 1, 2])


@pytest.mark.parametrize("face", [5, 100, 1000, 2000])
def test_a_flipped_edge_is_noticed_and_located(face):
    faces, vertices = demo_body(1229)
    with pytest.raises(ValueError, match=r"nothing mirrors the faces around the edge from vertex \d+ to \d+") as error:
        mirror_permutation(with_flipped_edge(faces, face), vertices)
    named = vertices[int(str(error.value).split()[-3])]
    place = vertices[faces[face]].mean(axis=0)
    assert min(np.linalg.norm(named - place), np.linalg.norm(named * [-1, 1, 1] - place)) < 0.2


def test_other_meshes_without_a_symmetry_are_refused_with_the_reason(sphere):
    x, faces = sphere.vertices, sphere.faces
    left = with_flipped_edge(with_flipped_edge(faces, 0), 40)
    for mesh, message in (
        ((np.concatenate([faces, faces[7:8]]), x), "faces 7 and 320 both go from vertex"),
        ((np.zeros((0, 3), int), x), "0 faces of 162 vertices"),
        ((faces, x * np.nan), "finite"),
        ((faces + 1, x), "are the faces 1-based"),
        (together((faces, x), (faces[:-1], x), (left, x)), "nothing mirrors"),
        (together((left, x), (left[:, ::-1], x), (left, x)), "some parts of the surface have no partner"),
    ):
        with pytest.raises(ValueError, match=message):
            mirror_permutation(*mesh)


def test_a_body_that_does_not_face_along_an_axis_is_refused():
    faces, vertices = demo_body(1229)
    turn = np.array([[1, 0, 1], [0, 2**0.5, 0], [-1, 0, 1]]) / 2**0.5
    with pytest.raises(ValueError, match=r"vertices are 0\.\d+ from .* expected at most 0\.5 of the radius"):
        mirror_permutation(faces, vertices @ turn)
