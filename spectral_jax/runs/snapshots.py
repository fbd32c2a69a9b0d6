"""What TensorBoard shows of a network at a validation beside its figures: latents, and pictures of a few meshes."""

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
from spectral_jax.network.autoencoder import ModelConfig, SpectralAutoencoder
from spectral_jax.network.codec import Codec
from spectral_jax.training.batches import FitData

MOST_LATENTS = 1024  # meshes that histograms are of
PIXELS = 192  # of a picture's side
MOST_MM = 50.0  # the error with the last colour


def show(
    config: ModelConfig, params: Any, basis: SpectralBasis, data: FitData, pictures: int
) -> tuple[Float[np.ndarray, "mesh latent"], UInt8[np.ndarray, "height width 3"] | None]:
    """Latents of test meshes, and a picture of some of them (none without Pillow): above as they are, below as the
    network has them, coloured by error."""
    basis = spectral.truncate(basis, config.modes)
    codec = Codec(SpectralAutoencoder(config), jax.device_put(jax.device_get(params)), jax.device_put(basis))
    coefficients = np.asarray(data.test_coefficients)
    latents = codec.encode(coefficients[_spread(len(coefficients), MOST_LATENTS)])
    chosen = _spread(len(coefficients), pictures)
    if not (len(chosen) and render.available()):
        return latents, None
    originals = np.asarray(data.test_vertices)[chosen]
    reconstructed = codec.reconstruct(coefficients[chosen])
    errors_mm, faces = np.asarray(vertex_errors_mm(reconstructed, originals)), np.asarray(basis.faces)
    columns = []
    for original, mesh, mm in zip(originals, reconstructed, errors_mm, strict=True):
        view, colours = render.window(original), error_colours(mm[faces].mean(axis=1), 0.0, MOST_MM)
        both = render.draw(original, faces, view, PIXELS), render.draw(mesh, faces, view, PIXELS, colours=colours)
        columns.append(np.concatenate(both))
    return latents, np.concatenate(columns, axis=1)


def _spread(count: int, most: int) -> np.ndarray:
    """At most so many of `count` meshes, evenly."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(int)
