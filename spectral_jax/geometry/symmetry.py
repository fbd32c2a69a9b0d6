"""The left-right symmetry of a triangle mesh, found from its connectivity."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from spectral_jax.geometry import mesh

ROUNDS = 100  # most rounds of colour refinement; fewer leave more candidates, never a wrong one
NEAREST = (
    16  # images of a half-edge that are tried for each axis, where the connectivity allows more than three times this
)

ROUGHLY = 0.5  # most distance of vertices from their partners' mirror images, as a part of the shape's radius


class Symmetry(NamedTuple):
    """A mirror symmetry of a connectivity.

    Attributes:
      partner: the vertex that each vertex is mapped to. The partner of a partner is the vertex itself. Faces are mapped
        to faces, and their orientation is reversed.
      axis: the coordinate that is mirrored, 0, 1 or 2.
    """

    partner: Int[np.ndarray, "vertex"]
    axis: int


class _Surface(NamedTuple):
    """Half-edges: number 3 f + k goes from corner k of face f to the next corner. Those of a part are consecutive.

    A part is a set of faces that are connected by edges. `opposite` is the same edge's half-edge in the other face, or
    -1 at a boundary. Half-edges starts[i] to starts[i + 1] are of part i.
    """

    origin: np.ndarray
    opposite: np.ndarray
    starts: np.ndarray


class _Image(NamedTuple):
    """A mirror image of a part in another one, or in itself: `image` of its `vertex`, and the mean squared distance."""

    distance: float
    part: int
    other: int
    vertex: np.ndarray
    image: np.ndarray


def mirror_permutation(faces: Int[np.ndarray, "face 3"], vertices: Float[np.ndarray, "vertex 3"]) -> Symmetry:
    """The mirror symmetry of the faces, an oriented manifold, perhaps with boundaries and of several parts.

    The vertices of a roughly symmetric shape, such as the mean of a dataset, choose the axis, and among several
    symmetries the nearest to the reflection in the plane through their centroid. A vertex without a face is its own
    partner. Raises ValueError with the reason where there is no symmetry, and as `mesh.edges` does.
    """
    faces, count = np.asarray(faces, np.int64), len(vertices)
    pairs = mesh.edges(faces, count)
    if not len(faces) or not np.isfinite(vertices).all():
        raise ValueError(f"{len(faces)} faces of {count} vertices, expected at least one, and finite coordinates")
    surface = _surface(faces, count)
    used = np.unique(faces)
    positions = vertices - np.asarray(vertices[used], np.float64).mean(axis=0)
    images = _part_images(surface, _colours(surface, pairs, count), positions)
    pairings = [_pair(images[axis], surface, count) for axis in range(3)]
    totals = np.array([total for _, total in pairings])
    size = float(np.square(positions[used]).sum())
    axis = int(np.argmax(totals <= totals.min() + 1e-9 * size))  # of equal ones the first, whatever the rounding
    partner = pairings[axis][0]
    if totals[axis] == np.inf:
        raise ValueError("no mirror symmetry: some parts of the surface have no partner")
    if not np.array_equal(_sorted(faces), _sorted(partner[faces[:, ::-1]])):
        raise ValueError("no mirror symmetry: parts of the surface that touch in single vertices have no common one")
    if totals[axis] > ROUGHLY**2 * size:
        distance, radius = np.sqrt([totals[axis] / len(used), size / len(used)])
        raise ValueError(
            f"no mirror symmetry in a coordinate plane: vertices are {distance:.3g} from their partners' mirror images "
            f"(root mean square), expected at most {ROUGHLY:g} of the radius, {ROUGHLY * radius:.3g}"
        )
    return Symmetry(partner, axis)


def _next(half: np.ndarray) -> np.ndarray:
    """The half-edge that follows in the same face."""
    return half - half % 3 + (half + 1) % 3


def _previous(half: np.ndarray) -> np.ndarray:
    """The half-edge that precedes in the same face."""
    return half - half % 3 + (half + 2) % 3


def _sorted(faces: np.ndarray) -> np.ndarray:
    """The faces in an order of their own, each from its smallest vertex on. Orientations are kept."""
    first = faces.argmin(axis=1)[:, None]
    turned = np.take_along_axis(faces, (first + np.arange(3)) % 3, axis=1)
    return turned[np.lexsort(turned.T)]


def _surface(faces: np.ndarray, count: int) -> _Surface:
    import scipy.sparse

    origin, target = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    codes = origin * count + target
    order = np.argsort(codes)
    codes = codes[order]
    repeated = np.flatnonzero(codes[1:] == codes[:-1])
    if len(repeated):
        one, other = sorted(order[repeated[0] : repeated[0] + 2].tolist())
        edge = f"from vertex {origin[one]} to {target[one]}"
        raise ValueError(f"not an oriented manifold: faces {one // 3} and {other // 3} both go {edge}")
    wanted = target * count + origin
    place = np.searchsorted(codes, wanted).clip(max=len(codes) - 1)
    opposite = np.where(codes[place] == wanted, order[place], -1)

    inner = np.flatnonzero(opposite >= 0)
    graph = scipy.sparse.coo_array(
        (np.ones(len(inner)), (inner // 3, opposite[inner] // 3)), shape=(len(faces), len(faces))
    )
    parts, part = scipy.sparse.csgraph.connected_components(graph, directed=False)
    half = (3 * np.argsort(part, kind="stable")[:, None] + np.arange(3)).ravel()
    rank = np.full(len(half) + 1, -1)  # the last one is of the opposite -1
    rank[half] = np.arange(len(half))
    starts = 3 * np.append(0, np.cumsum(np.bincount(part, minlength=parts)))
    return _Surface(origin[half], rank[opposite[half]], starts)


def _colours(surface: _Surface, pairs: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A number for each half-edge that symmetries keep, and the number that its mirror image would have.

    Colour refinement: the colour of a vertex is a hash of its own and its neighbours' colours of the round before. It
    ends when no more vertices are told apart, or when the colours alone show that there is no symmetry.
    """
    import scipy.sparse

    tables = np.random.default_rng(0).integers(np.iinfo(np.int64).max, size=(4, count + 1))
    i, j = pairs.T
    graph = scipy.sparse.coo_array((np.ones(2 * len(i), np.int64), (np.r_[i, j], np.r_[j, i])), shape=(count, count))
    graph = graph.tocsr()
    corners = np.arange(len(surface.origin))
    start, end, left = (surface.origin[half] for half in (corners, _next(corners), _previous(corners)))
    right = np.where(surface.opposite >= 0, left[surface.opposite], count)
    colour, kinds, rounds = np.bincount(surface.origin, minlength=count), 0, 0
    while True:
        colour, before, rounds = np.unique(colour, return_inverse=True)[1], kinds, rounds + 1
        kinds = int(colour.max()) + 1
        beyond = np.append(colour, count)  # with the colour of the corner beyond a boundary
        sides = tables[2][colour[left]] + tables[3][beyond[right]]
        own = tables[0][colour[start]] + tables[1][colour[end]] + sides
        mirrored = tables[0][colour[end]] + tables[1][colour[start]] + sides
        if kinds == before or rounds == ROUNDS or not np.isin(own, mirrored).all():
            return own, mirrored
        colour = tables[0][colour] + graph @ tables[1][colour]


def _part_images(
    surface: _Surface, colours: tuple[np.ndarray, np.ndarray], positions: np.ndarray
) -> list[list[_Image]]:
    """For each axis, the nearest mirror image of each part in each other part and in itself, where there is one."""
    own, mirrored = colours
    order = np.argsort(mirrored, kind="stable")
    first, last = (np.searchsorted(mirrored[order], own, side) for side in ("left", "right"))
    target = surface.origin[_next(np.arange(len(surface.origin)))]
    sizes = np.diff(surface.starts)
    part_of = np.repeat(np.arange(len(sizes)), sizes)
    flips = np.where(np.eye(3, dtype=bool), -1.0, 1.0)  # factors of the coordinates, for each axis
    images: list[list[_Image]] = [[], [], []]
    for part, (start, stop) in enumerate(itertools.pairwise(surface.starts.tolist())):
        seed = start + int(np.argmin((last - first)[start:stop]))  # the half-edge with the fewest candidates
        a, b = surface.origin[seed], target[seed]
        candidates = order[first[seed] : last[seed]]
        if not len(candidates):
            raise ValueError(f"no mirror symmetry: nothing mirrors the faces around the edge from vertex {a} to {b}")
        candidates = candidates[sizes[part_of[candidates]] == sizes[part]]
        if len(candidates) > 3 * NEAREST:
            ends = positions[[target[candidates], surface.origin[candidates]]]
            distances = np.square(ends - (flips[:, None] * positions[[a, b]])[:, :, None]).sum(axis=(1, 3))
            candidates = candidates[np.unique(np.argpartition(distances, NEAREST, axis=1)[:, :NEAREST])]
        halves = _propagate(surface, colours, slice(start, stop), seed, candidates)
        others = part_of[halves[:, 0]]
        to_itself = np.flatnonzero(others == part)
        twice = halves[to_itself, halves[to_itself, seed - start] - start]  # the image of the seed's image
        halves, others = (np.delete(array, to_itself[twice != seed], axis=0) for array in (halves, others))
        if not len(halves):
            raise ValueError(f"no mirror symmetry: nothing mirrors the part of the surface with vertex {a}")
        vertex, index = np.unique(surface.origin[start:stop], return_index=True)
        mapped = target[halves[:, index]]
        for axis in range(3):
            distances = np.square(positions[mapped] - flips[axis] * positions[vertex]).sum(axis=2).mean(axis=1)
            for other in np.unique(others):
                best = min(np.flatnonzero(others == other), key=distances.__getitem__)
                images[axis].append(_Image(float(distances[best]), part, int(other), vertex, mapped[best]))
    return images


def _propagate(
    surface: _Surface, colours: tuple[np.ndarray, np.ndarray], part: slice, seed: int, candidates: np.ndarray
) -> np.ndarray:
    """Images (image, half-edge) of a part's half-edges under each orientation-reversing map that there is.

    A half-edge from a to b is mapped to one from the image of b to the image of a, the seed to one of the candidates.
    The map goes on over the edges from face to face.
    """
    own, mirrored = colours
    start, opposite = part.start, surface.opposite
    halves = np.full((len(candidates), part.stop - start), -1)
    seen = np.zeros(halves.shape[1] // 3, bool)
    entered, image = np.array([seed]), candidates[:, None]
    while len(entered) and len(halves):
        seen[(entered - start) // 3] = True
        around = np.concatenate([entered, _next(entered), _previous(entered)])
        halves[:, around - start] = np.concatenate([image, _previous(image), _next(image)], axis=1)
        alike = (mirrored[halves[:, around - start]] == own[around]).all(axis=1)
        halves = halves if alike.all() else halves[alike]  # alike also in whether there is a face beyond an edge
        crossed = around[opposite[around] >= 0]
        crossed = crossed[~seen[(opposite[crossed] - start) // 3]]
        crossed = crossed[np.unique(opposite[crossed] // 3, return_index=True)[1]]
        entered, image = opposite[crossed], opposite[halves[:, crossed - start]]
    back = opposite[part]
    expected = np.where(back < 0, -1, halves[:, np.maximum(back - start, 0)])
    return halves[(opposite[halves] == expected).all(axis=1)]


def _pair(images: list[_Image], surface: _Surface, count: int) -> tuple[np.ndarray, float]:
    """Pair the parts, the nearest first: each vertex's partner, and the sum of squared distances, or infinity."""
    partner, total, free = np.arange(count), 0.0, np.ones(len(surface.starts) - 1, bool)
    for found in sorted(images, key=lambda image: image.distance):
        if free[found.part] and free[found.other]:
            partner[found.vertex], partner[found.image] = found.image, found.vertex
            free[[found.part, found.other]] = False
            total += found.distance * len(found.vertex) * (1 if found.part == found.other else 2)
    return partner, np.inf if free.any() else total
