"""The Laplacian loss: in the spectral domain a weight for each mode.

The modes are the eigenvectors of the Laplacian L, so with all of them the sum of eigenvalue times squared error of the
coefficients is trace(D^T L D), D being the displacement of the vertices: it grows with the differences of D between
neighbours, and is the squared error of edges where L is the graph Laplacian. Alone it would leave a translation free,
whose eigenvalue is 0, so it is added to the error of positions.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float

from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.network.config import ModelConfig
from spectral_jax.training import scores
from spectral_jax.training.config import TrainConfig


def mode_weights(basis: SpectralBasis, model: ModelConfig, config: TrainConfig) -> Float[np.ndarray, "freq"] | None:
    """How often the squared error of each mode counts: 1 + weight * eigenvalue / mean eigenvalue. None for weight 0."""
    if not config.laplacian_weight:
        return None
    eigenvalues = np.maximum(np.asarray(basis.eigenvalues[: model.modes], np.float64), 0)  # of a constant: -1e-17
    return 1 + config.laplacian_weight * eigenvalues / max(eigenvalues.mean(), np.finfo(np.float64).tiny)


def with_metric(
    constants: dict[str, Any] | None, basis: SpectralBasis | None, model: ModelConfig, config: TrainConfig
) -> dict[str, Any] | None:
    """The constants of a network with the metric of the loss, if modes have weights: what training steps take.

    The loss multiplies the errors of rows with it and squares them: each mode of SAE-LP with the root of its weight
    (freq), scores with the matrix of `scores.WeightedDirections` (row, column). Raises ValueError without a basis.
    """
    if not config.laplacian_weight:
        return constants
    if basis is None:
        raise ValueError("the Laplacian loss needs a basis, this run has none")
    weights = mode_weights(basis, model, config)
    assert weights is not None
    if not constants:
        return {"metric": np.sqrt(weights).astype(np.float32)}
    return constants | {"metric": scores.weighted_directions(constants, weights).metric}
