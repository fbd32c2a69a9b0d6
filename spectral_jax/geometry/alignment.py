"""Rigid and similarity transforms between sets of corresponding points (Procrustes analysis)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Similarity(NamedTuple):
    """The map x -> scale * rotation @ x + translation; the rotation is no reflection."""

    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]
    scale: float = 1.0

    def apply(self, points: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        """The images of points, in their number type."""
        moved = self.scale * points.astype(np.float64) @ self.rotation.T + self.translation
        return moved.astype(points.dtype)

    def inverse(self) -> Similarity:
        """The map back."""
        turned = self.rotation.T
        return Similarity(turned, -turned @ self.translation / self.scale, 1 / self.scale)


def align(
    points: Float[np.ndarray, "point 3"], target: Float[np.ndarray, "point 3"], scaled: bool = False
) -> Similarity:
    """The rigid map, or the similarity if `scaled`, of points to their partners, with the least squared distances.

    In closed form, float64 (Umeyama 1991). Raises ValueError for fewer than 3 points, or points on one line.
    """
    a, b = np.asarray(points, np.float64), np.asarray(target, np.float64)
    centre, aim = a.mean(axis=0), b.mean(axis=0)
    left, singular, right = np.linalg.svd((b - aim).T @ (a - centre))
    if len(a) < 3 or singular[1] <= 1e-9 * max(singular[0], np.finfo(np.float64).tiny):
        raise ValueError(f"{len(a)} points do not determine a rotation: 3 that are not on one line are needed")
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right))])
    rotation = left * signs @ right
    scale = float(singular @ signs / np.square(a - centre).sum()) if scaled else 1.0
    return Similarity(rotation, aim - scale * rotation @ centre, scale)
