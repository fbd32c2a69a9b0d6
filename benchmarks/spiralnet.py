"""A spiral-convolution autoencoder on vertices, in PyTorch: SpiralNet++ (Gong et al. 2019), from its description.

A spiral lists a vertex, its ring, and the ring around that, always in the orientation of the faces. A convolution is a
linear layer on the features along it. Meshes are coarsened by collapsing edges with quadric errors (Garland and
Heckbert 1997) onto one of their ends, so that coarse vertices are fine ones; a removed vertex is interpolated from the
closest point of the coarse mesh.
"""

import heapq
from typing import NamedTuple

import numpy as np

LENGTH = 9  # vertices in a spiral
FACTOR = 4  # vertices of a mesh by those of the next coarser one
CHANNELS = (32, 32, 32, 64)


class Level(NamedTuple):
    """How to go from a mesh to the next coarser one and back. Weights of a vertex sum to 1."""

    kept: np.ndarray  # (coarse,) fine vertices
    faces: np.ndarray  # (face, 3) of the coarse mesh
    corners: np.ndarray  # (fine, 3) coarse vertices
    weights: np.ndarray  # (fine, 3)


def spirals(faces: np.ndarray, num_vertices: int, length: int = LENGTH) -> np.ndarray:
    """Spirals (vertex, length) of vertices. Where a part has too few, the rest is `num_vertices`."""
    following: list[dict[int, int]] = [{} for _ in range(num_vertices)]  # around a vertex: the neighbour after another
    for a, b, c in np.asarray(faces).tolist():
        following[a][b], following[b][c], following[c][a] = c, a, b
    found = np.full((num_vertices, length), num_vertices)
    for vertex in range(num_vertices):
        spiral, parents, at = [vertex], {vertex: None}, 0
        while len(spiral) < length and at < len(spiral):
            for other in _ring(following[spiral[at]], parents[spiral[at]]):
                if other not in parents:
                    parents[other] = spiral[at]
                    spiral.append(other)
            at += 1
        found[vertex, : len(spiral[:length])] = spiral[:length]
    return found


def _ring(following: dict[int, int], first: int | None) -> list[int]:
    """The neighbours of a vertex in the orientation of its faces, from `first` on, or from a border's start."""
    starts = [a for a in following if a not in following.values()]
    order: dict[int, None] = {}
    for start in [*([] if first is None else [first]), *starts, *following]:
        while start is not None and start not in order:
            order[start] = None
            start = following.get(start)
    return list(order)


def coarsen(vertices: np.ndarray, faces: np.ndarray, factor: int = FACTOR) -> Level:
    """Collapse edges until a share of the vertices is left, or until none can be collapsed."""
    vertices = np.asarray(vertices, np.float64)
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    normals = np.cross(b - a, c - a)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    planes = np.concatenate([normals, -np.sum(normals * a, axis=1, keepdims=True)], axis=1)
    quadrics = np.zeros((len(vertices), 4, 4))
    for corner in range(3):
        np.add.at(quadrics, faces[:, corner], planes[:, :, None] * planes[:, None])
    points = np.concatenate([vertices, np.ones((len(vertices), 1))], axis=1)
    around: list[set] = [set() for _ in vertices]  # faces at a vertex, their orientation kept
    for face in np.asarray(faces).tolist():
        for vertex in face:
            around[vertex].add(tuple(face))
    changes, heap = np.zeros(len(vertices), int), []

    def neighbours(vertex: int) -> set[int]:
        return {other for face in around[vertex] for other in face} - {vertex}

    def push(keep: int, remove: int) -> None:
        error = points[keep] @ (quadrics[keep] + quadrics[remove]) @ points[keep]
        heapq.heappush(heap, (error, keep, remove, changes[keep], changes[remove]))

    for vertex in range(len(vertices)):
        for other in neighbours(vertex):
            push(vertex, other)
    alive, target = set(range(len(vertices))), -(-len(vertices) // factor)
    while heap and len(alive) > target:
        _, keep, remove, *when = heapq.heappop(heap)
        if when != [changes[keep], changes[remove]]:
            continue
        shared = around[keep] & around[remove]
        moved = {tuple(keep if v == remove else v for v in face) for face in around[remove] - shared}
        stay = {frozenset(face) for face in around[keep] - shared}
        if len(neighbours(keep) & neighbours(remove)) != len(shared) or stay & {frozenset(face) for face in moved}:
            continue  # the surface would touch itself or fold up
        if not stay | moved:
            continue
        for face in around[remove] | shared:
            for vertex in face:
                around[vertex].discard(face)
        for face in moved:
            for vertex in face:
                around[vertex].add(face)
        quadrics[keep] += quadrics[remove]
        alive.remove(remove)
        changes[[keep, remove]] += 1
        for other in neighbours(keep):
            push(keep, other)
            push(other, keep)
    kept = np.array(sorted(alive))
    number = {vertex: i for i, vertex in enumerate(kept.tolist())}
    left = sorted({face for vertex in kept.tolist() for face in around[vertex]})
    coarse = np.array([[number[v] for v in face] for face in left])
    corners, weights = np.zeros((len(vertices), 3), int), np.zeros((len(vertices), 3))
    for vertex in range(len(vertices)):
        if vertex in number:
            corners[vertex], weights[vertex, 0] = number[vertex], 1
        else:
            face, weights[vertex] = _closest(vertices[vertex], vertices[kept][coarse])
            corners[vertex] = coarse[face]
    return Level(kept, coarse, corners, weights)


def _closest(point: np.ndarray, triangles: np.ndarray) -> tuple[int, np.ndarray]:
    """The triangle (of face, 3, 3) that is closest to a point, and the barycentric weights of its closest point."""
    candidates = np.zeros((4, len(triangles), 3))
    for i, j in ((0, 1), (1, 2), (2, 0)):
        start, along = triangles[:, i], triangles[:, j] - triangles[:, i]
        share = np.sum((point - start) * along, axis=1) / np.maximum(np.sum(along * along, axis=1), 1e-30)
        candidates[i, :, j] = np.clip(share, 0, 1)
        candidates[i, :, i] = 1 - candidates[i, :, j]
    a, b, c = triangles[:, 0], triangles[:, 1], triangles[:, 2]
    normal = np.cross(b - a, c - a)
    area = np.maximum(np.sum(normal * normal, axis=1), 1e-30)
    candidates[3, :, 1] = np.sum(np.cross(point - a, c - a) * normal, axis=1) / area
    candidates[3, :, 2] = np.sum(np.cross(b - a, point - a) * normal, axis=1) / area
    candidates[3, :, 0] = 1 - candidates[3, :, 1] - candidates[3, :, 2]
    distances = np.linalg.norm(np.einsum("kfc,fcx->kfx", candidates, triangles) - point, axis=2)
    distances[3, candidates[3].min(axis=1) < 0] = np.inf  # the foot of the perpendicular is outside
    which, face = np.unravel_index(distances.argmin(), distances.shape)
    return int(face), candidates[which, face]


def build(vertices: np.ndarray, faces: np.ndarray, latent_size: int):
    """The autoencoder of meshes with these faces; the vertices, of one of them, decide what is collapsed."""
    import torch
    from torch import nn

    class Spiral(nn.Module):
        def __init__(self, faces, num_vertices, channels, features):
            super().__init__()
            self.linear = nn.Linear(LENGTH * channels, features)
            nn.init.xavier_uniform_(self.linear.weight)
            nn.init.zeros_(self.linear.bias)
            self.register_buffer("around", torch.as_tensor(spirals(faces, num_vertices)).flatten())

        def forward(self, x):
            padded = nn.functional.pad(x, (0, 0, 0, 1))  # what a spiral lacks is zero
            return self.linear(padded.index_select(1, self.around).reshape(len(x), x.shape[1], -1))

    class Down(nn.Module):
        def __init__(self, level):
            super().__init__()
            self.register_buffer("kept", torch.as_tensor(level.kept))

        def forward(self, x):
            return x.index_select(1, self.kept)

    class Up(nn.Module):
        def __init__(self, level):
            super().__init__()
            self.register_buffer("corners", torch.as_tensor(level.corners).flatten())
            self.register_buffer("weights", torch.as_tensor(level.weights, dtype=torch.float32))

        def forward(self, x):
            corners = x.index_select(1, self.corners).reshape(len(x), -1, 3, x.shape[2])
            return (corners * self.weights[None, :, :, None]).sum(2)

    encoder, decoder, channels = [], [Spiral(faces, len(vertices), CHANNELS[0], 3)], 3
    for features, narrower in zip(CHANNELS, (CHANNELS[0], *CHANNELS), strict=False):
        level = coarsen(vertices, faces)
        encoder += [Spiral(faces, len(vertices), channels, features), nn.ELU(), Down(level)]
        decoder = [Up(level), Spiral(faces, len(vertices), features, narrower), nn.ELU(), *decoder]
        vertices, faces, channels = vertices[level.kept], level.faces, features
    size = len(vertices) * channels
    encoder += [nn.Flatten(), nn.Linear(size, latent_size)]
    return nn.Sequential(*encoder, nn.Linear(latent_size, size), nn.Unflatten(1, (len(vertices), channels)), *decoder)
