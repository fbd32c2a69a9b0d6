"""What the residual network is trained on: principal scores instead of coefficients.

The principal directions are orthonormal, so a mesh's squared error in scores, and in the norm of what the directions
leave of it, is that in coefficients: training on them is exact. They take a hundredth of the memory, and a step's cost
depends neither on the number of modes nor on that of vertices.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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


@jax.jit
def to_rows(
    principal_components: Principal, coefficients: Float[Array | np.ndarray, "mesh freq 3"]
) -> Float[Array, "mesh row"]:
    """The training rows of meshes: their scores, and the norm of what the directions leave of them."""
    scores = principal.project(principal_components, coefficients)
    left = coefficients - principal.reconstruct(principal_components, scores)
    norm = jnp.sqrt(jnp.sum(jnp.square(left), axis=(1, 2)))
    return jnp.concatenate([scores, norm[:, None]], axis=1)


def all_rows(constants: dict[str, Any], blocks: Iterable[Array | np.ndarray]) -> Float[np.ndarray, "mesh row"]:
    """The training rows of blocks of coefficients, one block after the other."""
    components = jax.device_put(residual.principal_of(constants))
    rows = [np.asarray(to_rows(components, block)) for block in blocks]
    return np.concatenate(rows) if rows else np.zeros((0, len(constants["scales"]) + 1), np.float32)


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
