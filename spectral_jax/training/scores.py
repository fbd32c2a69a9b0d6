"""What the residual network is trained on: principal scores instead of coefficients.

The principal directions are orthonormal, so a mesh's squared error in scores, and in the norm of what the directions
leave of it, is that in coefficients: training on them is exact. They take a hundredth of the memory, and a step's cost
depends neither on the number of modes nor on that of vertices.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from spectral_jax.basis import mirror
from spectral_jax.basis.mirror import Mirror
from spectral_jax.data.coefficients import MirroredCoefficients
from spectral_jax.network import principal, residual
from spectral_jax.network.config import ModelConfig
from spectral_jax.network.principal import Principal, Rows
from spectral_jax.training.batches import FitData

PASSES = 2  # over a train split that is too large to hold: they start from a sample of it


def fit_constants(model: ModelConfig, coefficients: Rows) -> tuple[ModelConfig, dict[str, Any]]:
    """The constants of a residual network for coefficients (mesh, freq, 3), and its options with their directions.

    There are at most as many directions as meshes less one. Coefficients with their mirror images give a symmetric
    network. Raises ValueError for fewer than 2 meshes.
    """
    count = residual.num_directions(model, len(coefficients))
    fitted = principal.fit(coefficients, count, PASSES)
    if not isinstance(coefficients, MirroredCoefficients):
        return dataclasses.replace(model, directions=count), residual.constants(fitted)
    signs, components = _with_parity(coefficients.reflection, fitted.components)
    constants = residual.constants(fitted._replace(components=components)) | {"signs": signs}
    return dataclasses.replace(model, directions=count, symmetric=True), constants


def _with_parity(
    reflection: Mirror, components: Float[np.ndarray, "component freq 3"]
) -> tuple[Float[np.ndarray, "component"], Float[np.ndarray, "component freq 3"]]:
    """The sign that the mirror image of each principal component has, and components of which that is true.

    The components of meshes and their mirror images are such, but for rounding, and where two have one variance.
    """
    zero = np.zeros((1, *components.shape[1:]), np.float32)
    images = np.asarray(mirror.reflect(reflection, components) - mirror.reflect(reflection, zero))
    signs = np.where(np.einsum("sfc,sfc->s", images, components) < 0, -1, 1).astype(np.float32)
    definite = (components + signs[:, None, None] * images).reshape(len(components), -1).T
    orthonormal, triangle = np.linalg.qr(definite.astype(np.float64))
    orthonormal *= np.where(np.diag(triangle) < 0, -1, 1)
    return signs, orthonormal.T.reshape(components.shape).astype(np.float32)


class WeightedDirections(NamedTuple):
    """Principal directions under weights of modes: what turns the weighted error of coefficients into one of scores.

    With the weights W, the directions V in rows, and what they leave of a mesh, r, the decoded scores s' are off by
    (s' - s) V - r, whose weighted square is |(s' - s) L - b|^2 + (r W r - |b|^2), where V W V^T = L L^T and
    b = r W V^T L^-T. The last term does not depend on s'.

    Attributes:
      dual: W V^T L^-T as (column, freq, 3).
      metric: of rows with the scores s, the root of the last term, and b.
    """

    weights: Float[np.ndarray, "freq"]
    dual: Float[np.ndarray, "column freq 3"]
    metric: Float[np.ndarray, "row column"]


def weighted_directions(constants: dict[str, Any], weights: Float[np.ndarray, "freq"]) -> WeightedDirections:
    """The principal directions of a residual network under weights of modes."""
    directions = np.asarray(constants["directions"], np.float64)
    count = len(directions)
    moved = (directions * weights[:, None]).reshape(count, -1)
    lower = np.linalg.cholesky(directions.reshape(count, -1) @ moved.T)
    dual = scipy.linalg.solve_triangular(lower, moved, lower=True).reshape(directions.shape)
    whole = np.block([[lower, np.zeros((count, 1))], [np.zeros((1, count)), 1], [np.eye(count, count + 1)]])
    return WeightedDirections(*(array.astype(np.float32) for array in (weights, dual, whole)))


@jax.jit
def to_rows(
    principal_components: Principal,
    coefficients: Float[Array | np.ndarray, "mesh freq 3"],
    weighted: WeightedDirections | None = None,
) -> Float[Array, "mesh row"]:
    """The training rows of meshes: their scores, and the norm of what the directions leave of them.

    For a weighted loss also what that shares with the directions, as `WeightedDirections` says.
    """
    scores = principal.project(principal_components, coefficients)
    left = coefficients - principal.reconstruct(principal_components, scores)
    if weighted is None:
        norm = jnp.sqrt(jnp.sum(jnp.square(left), axis=(1, 2)))
        return jnp.concatenate([scores, norm[:, None]], axis=1)
    shared = jnp.einsum("bfc,sfc->bs", left, weighted.dual, precision="highest")
    whole = jnp.sum(jnp.square(left) * weighted.weights[None, :, None], axis=(1, 2))
    rest = jnp.sqrt(jnp.maximum(whole - jnp.sum(jnp.square(shared), axis=1), 0))
    return jnp.concatenate([scores, rest[:, None], shared], axis=1)


def all_rows(
    constants: dict[str, Any], blocks: Iterable[Array | np.ndarray], weighted: WeightedDirections | None = None
) -> Float[np.ndarray, "mesh row"]:
    """The training rows of blocks of coefficients, one block after the other."""
    components, weighted = jax.device_put((residual.principal_of(constants), weighted))
    rows = [np.asarray(to_rows(components, block, weighted)) for block in blocks]
    width = len(constants["scales"]) + 1 if weighted is None else len(weighted.metric)
    return np.concatenate(rows) if rows else np.zeros((0, width), np.float32)


def displacements(modes: Float[Array | np.ndarray, "vertex freq"], constants: dict[str, Any]) -> Principal:
    """The mean and the principal directions as vertices instead of coefficients, metres."""
    mean, components, deviations = residual.principal_of(constants)
    to_vertices = functools.partial(jnp.einsum, "vf,...fc->...vc", modes, precision="highest")
    return Principal(np.asarray(to_vertices(mean)), np.asarray(to_vertices(components)), deviations)


def from_coefficients(data: FitData, constants: dict[str, Any]) -> FitData:
    """The data that the residual network trains on, from arrays of coefficients."""
    train, modes, test, vertices = data
    train, test = (all_rows(constants, [np.asarray(coefficients)]) for coefficients in (train, test))
    return FitData(train, displacements(np.asarray(modes), constants), test, vertices)
