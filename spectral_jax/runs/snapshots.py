"""Snapshots of a network for TensorBoard: histograms of latents, and pictures of a few reconstructed meshes."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from spectral_jax.basis import spectral
from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.geometry import render
from spectral_jax.geometry.colours import error_colours
from spectral_jax.geometry.metrics import vertex_errors_mm
from spectral_jax.network import networks, principal, residual
from spectral_jax.network.codec import Codec
from spectral_jax.network.config import ModelConfig
from spectral_jax.training.batches import FitData
from spectral_jax.training.state import TrainingProgress

MAX_LATENTS = 1024  # test meshes whose latents enter the histograms
PIXELS = 192  # width and height of a picture
MAX_ERROR_MM = 50.0  # the error of the last colour
GROWTH = 1.25  # between the epochs of two snapshots: about 40 snapshots in 10,000 epochs


class Snapshots:
    """Draws a network's latents and reconstructions during training, at ever fewer epochs."""

    def __init__(
        self,
        model: ModelConfig,
        basis: SpectralBasis | None,
        data: FitData,
        pictures: int,
        last_epoch: int = 0,
        constants: Any = None,
    ):
        self._model, self._data, self._pictures = model, data, pictures
        self._basis = None if basis is None else spectral.truncate(basis, model.modes)
        self._last_epoch, self._constants = last_epoch, constants

    def due(self, epoch: int) -> bool:
        """Whether to draw after this epoch: never without pictures or a basis."""
        return self._pictures > 0 and self._basis is not None and epoch >= self._last_epoch * GROWTH

    def draw(
        self, position: TrainingProgress
    ) -> tuple[Float[np.ndarray, "mesh latent"], UInt8[np.ndarray, "height width 3"] | None]:
        """Latents of test meshes, and a picture of some of them (None without Pillow).

        The top row of the picture shows the originals, the bottom row the reconstructions coloured by error.
        """
        self._last_epoch = position.epoch
        params = jax.device_put(jax.device_get(position.state.params))
        basis: Any = self._basis
        constants = jax.device_put(self._constants)
        codec = Codec(networks.build(self._model), params, jax.device_put(basis), constants)
        count = len(self._data.test_vertices)
        latents = codec.encode(self._coefficients(_spread(count, MAX_LATENTS)))
        chosen = _spread(count, self._pictures)
        if not (len(chosen) and render.available()):
            return latents, None
        originals = np.asarray(self._data.test_vertices[chosen])
        reconstructed = codec.reconstruct(self._coefficients(chosen))
        errors_mm, faces = np.asarray(vertex_errors_mm(reconstructed, originals)), np.asarray(basis.faces)
        columns = []
        for original, mesh, mm in zip(originals, reconstructed, errors_mm, strict=True):
            view, colours = render.window(original), error_colours(mm[faces].mean(axis=1), 0.0, MAX_ERROR_MM)
            both = render.draw(original, faces, view, PIXELS), render.draw(mesh, faces, view, PIXELS, colours=colours)
            columns.append(np.concatenate(both))
        return latents, np.concatenate(columns, axis=1)

    def _coefficients(self, chosen: np.ndarray) -> np.ndarray:
        """Coefficients of some test meshes: those of a residual network's data are scores."""
        rows = np.asarray(self._data.test_coefficients[chosen])
        if self._constants is None:
            return rows
        return np.asarray(principal.reconstruct(residual.principal_of(self._constants), rows[:, :-1]))


def _spread(count: int, most: int) -> np.ndarray:
    """Indices of at most `most` of `count` meshes, evenly spaced."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)
