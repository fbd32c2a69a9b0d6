"""What latents know: labels by cross-validated ridge regression, and the part of a latent that is its identity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

FOLDS = 5
PENALTIES = tuple(10.0**k for k in range(-3, 5))  # of ridge regression, on standardised latents; chosen by folds within
SHRINKAGE = 1e-3  # of the scatter within identities towards a multiple of the identity matrix


class Probe(NamedTuple):
    """How well latents tell a label of meshes that the regression has not seen.

    Attributes:
      label: its name.
      score: share of meshes whose class is found, or for numbers the share of their variance (R²).
      chance: the score without latents: the share of the largest class, or 0.
      classes: number of classes; None for numbers.
      grouped: whether groups, such as sequences, were left out as a whole.
    """

    label: str
    score: float
    chance: float
    classes: int | None
    grouped: bool


def probe(
    label: str, latents: Float[np.ndarray, "mesh latent"], values: np.ndarray, groups: Sequence[str]
) -> Probe | None:
    """Predict a label from latents in five folds; None where all meshes have the same value.

    `values` are text (classes) or numbers (mesh) or (mesh, number). The meshes of a group, such as the frames of a
    sequence, are left out together, unless that would leave out a class whole. Raises ValueError for under 10 meshes.
    """
    from sklearn.linear_model import RidgeClassifierCV, RidgeCV
    from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(latents) < 2 * FOLDS:
        raise ValueError(f"a probe needs at least {2 * FOLDS} meshes, not {len(latents)}")
    rows, owners, named = np.asarray(latents, np.float64), np.asarray(groups), values.dtype.kind in "US"
    names, counts = np.unique(values, return_counts=True)
    if len(names) < 2:
        return None
    classes = [owners[values == name] for name in names] if named else [owners]
    grouped = min(len(np.unique(found)) for found in classes) > 1
    if grouped:
        folds = GroupKFold(min(FOLDS, len(np.unique(owners))))
    elif named and counts.min() >= FOLDS:
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    else:
        folds = KFold(FOLDS, shuffle=True, random_state=0)
    model = make_pipeline(StandardScaler(), (RidgeClassifierCV if named else RidgeCV)(PENALTIES))
    parts = list(folds.split(rows, values, owners if grouped else None))
    found = cross_val_predict(model, rows, values, cv=parts)
    if named:
        share = float(counts.max() / len(values))
        return Probe(label, float(np.mean(found == values)), share, len(names), grouped)
    spread = np.square(values - values.mean(axis=0)).sum()
    return Probe(label, float(1 - np.square(values - found).sum() / spread), 0.0, None, grouped)


class Separation(NamedTuple):
    """Identity and pose in latents: `projection` maps a latent's difference from another to that of identity."""

    projection: Float[np.ndarray, "latent latent"]


def separate(latents: Float[np.ndarray, "mesh latent"], identities: Sequence[str]) -> Separation:
    """The identity part of latents, by linear discriminant analysis (Fisher 1936; Rao 1948).

    Its directions are those in which identities differ more than the meshes of one do, and the projection onto them
    is that to which pose adds least. Raises ValueError for fewer than 2 identities, or
    none with 2 meshes.
    """
    from scipy.linalg import eigh

    rows, owners = np.asarray(latents, np.float64), np.asarray(identities)
    names, index, counts = np.unique(owners, return_inverse=True, return_counts=True)
    if len(names) < 2 or counts.max() < 2:
        raise ValueError(f"{len(rows)} meshes of {len(names)} identities: 2 are needed, and one with 2 meshes")
    means = np.zeros((len(names), rows.shape[1]))
    np.add.at(means, index, rows)
    means /= counts[:, None]
    apart = means - rows.mean(axis=0)
    within = (rows - means[index]).T @ (rows - means[index]) / (len(rows) - len(names))
    within += SHRINKAGE * np.trace(within) / len(within) * np.eye(len(within))
    variances, directions = eigh((apart * counts[:, None]).T @ apart, within)
    kept = directions[:, variances >= min(len(rows), variances[-1])]
    return Separation(within @ kept @ kept.T)


def swap(
    separation: Separation, pose: Float[np.ndarray, "*mesh latent"], identity: Float[np.ndarray, "*mesh latent"]
) -> Float[np.ndarray, "*mesh latent"]:
    """The pose of one latent with the identity of another."""
    pose = np.asarray(pose)
    return (pose + (identity - pose) @ separation.projection.T).astype(pose.dtype)
