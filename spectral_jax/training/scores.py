"""What the residual network is trained on: principal scores instead of coefficients.

The principal directions are orthonormal, so a mesh's squared error in scores, and in the norm of what the directions
leave of it, is that in coefficients: training on them is exact. They take a hundredth of the memory, and a step's cost
depends neither on the number of modes nor on that of vertices.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.network import principal, residual
from spectral_jax.network.principal import Principal

CHUNK = 1024  # meshes whose scores are computed at a time


@jax.jit
def to_rows(
    principal_components: Principal, coefficients: Float[Array | np.ndarray, "mesh freq 3"]
) -> Float[Array, "mesh row"]:
    """The training rows of meshes: their scores, and the norm of what the directions leave of them."""
    scores = principal.project(principal_components, coefficients)
    left = coefficients - principal.reconstruct(principal_components, scores)
    norm = jnp.sqrt(jnp.sum(jnp.square(left), axis=(1, 2)))
    return jnp.concatenate([scores, norm[:, None]], axis=1)


def all_rows(constants: dict[str, Any], blocks: Iterable[np.ndarray]) -> Float[np.ndarray, "mesh row"]:
    """The training rows of blocks of coefficients, one block after the other."""
    components = jax.device_put(residual.principal_of(constants))
    rows = [np.asarray(to_rows(components, block)) for block in blocks]
    return np.concatenate(rows) if rows else np.zeros((0, len(constants["scales"]) + 1), np.float32)


def displacements(basis: SpectralBasis, constants: dict[str, Any]) -> Principal:
    """The mean and the principal directions as vertices instead of coefficients, metres."""
    mean, components, deviations = residual.principal_of(constants)
    mean, components = (np.asarray(spectral.reconstruct(basis, x)) for x in (mean, components))
    return Principal(mean, components, deviations)
