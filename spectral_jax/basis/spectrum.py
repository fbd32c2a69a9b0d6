"""Measure how well the first modes represent meshes: truncation error, energy and amplitude by number of modes."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from spectral_jax.basis.spectral import SpectralBasis
from spectral_jax.geometry.metrics import vertex_errors_mm

TABLE_COUNTS = (64, 256, 512, 1024, 2048, 4096)
BATCH = 16


class Spectrum(NamedTuple):
    """Figures by number of modes. Each count also ends a band of modes that starts at the count before.

    Attributes:
      counts: numbers of modes, ascending, up to all modes.
      mean_mm, max_mm: mean and maximum over meshes of the mean vertex error; None without original vertices.
      energy_percent: energy of the band over that of all modes. Constant modes, which are position, are left out.
      amplitude_mm: rms amplitude of the band, without constant modes.
    """

    counts: tuple[int, ...]
    mean_mm: Float[np.ndarray, "count"] | None
    max_mm: Float[np.ndarray, "count"] | None
    energy_percent: Float[np.ndarray, "count"]
    amplitude_mm: Float[np.ndarray, "count"]

    @property
    def left_out_percent(self) -> Float[np.ndarray, "count"]:
        """Energy in the modes beyond each count, %."""
        return np.append(self.energy_percent[:0:-1].cumsum()[::-1], 0.0)


def table_counts(num_modes: int) -> tuple[int, ...]:
    """TABLE_COUNTS below `num_modes`, then `num_modes`."""
    return *(count for count in TABLE_COUNTS if count < num_modes), num_modes


def octave_counts(num_modes: int) -> tuple[int, ...]:
    """Powers of two below `num_modes`, then `num_modes`."""
    return *(2**k for k in range(num_modes.bit_length()) if 2**k < num_modes), num_modes


def curve_counts(num_modes: int) -> tuple[int, ...]:
    """Powers of two and the numbers half-way between them below `num_modes`, then `num_modes`."""
    octaves = octave_counts(num_modes)
    return tuple(sorted({*octaves, *(3 * n // 2 for n in octaves if 3 * n // 2 < num_modes)}))


def constant_modes(basis: SpectralBasis) -> Bool[np.ndarray, "freq"]:
    """Which modes are constant on each component of the mesh: their eigenvalue is below 1e-9 of the largest."""
    eigenvalues = np.asarray(basis.eigenvalues)
    return eigenvalues < 1e-9 * eigenvalues[-1]


def measure(
    basis: SpectralBasis,
    counts: tuple[int, ...],
    coefficients: Float[np.ndarray, "mesh freq 3"],
    test: tuple[Float[np.ndarray, "other freq 3"], Float[np.ndarray, "other vertex 3"]] | None = None,
) -> Spectrum:
    """Measure the spectrum at `counts`, which end with all modes: energies of `coefficients`, errors of `test`."""
    energy = np.einsum("mfc,mfc->f", coefficients, coefficients, dtype=np.float64) / len(coefficients)
    bands = band_energies(basis, counts, energy)
    errors_mm = (None, None)
    if test is not None:
        errors = truncation_errors_mm(basis.modes, *test, counts)
        errors_mm = errors.mean(axis=0), errors.max(axis=0)
    total = bands.sum() or 1.0  # meshes without shape have zero energy in every band
    return Spectrum(counts, *errors_mm, 100 * bands / total, amplitudes_mm(basis, bands))


def band_energies(
    basis: SpectralBasis, counts: tuple[int, ...], energy: Float[np.ndarray, "freq"]
) -> Float[np.ndarray, "band"]:
    """Energies of the bands that end at `counts`, from those of modes; modes that are constant have none."""
    return np.add.reduceat(np.where(constant_modes(basis), 0.0, energy), (0, *counts[:-1]))


def amplitudes_mm(basis: SpectralBasis, bands: Float[np.ndarray, "band"]) -> Float[np.ndarray, "band"]:
    """Rms displacement of a vertex in each band, mm, from the bands' energies."""
    return 1000 * np.sqrt(bands / basis.num_vertices)


def truncation_errors_mm(
    modes: Float[Array | np.ndarray, "vertex freq"],
    coefficients: Float[np.ndarray, "mesh freq 3"],
    vertices: Float[np.ndarray, "mesh vertex 3"],
    counts: tuple[int, ...],
) -> Float[np.ndarray, "mesh count"]:
    """Mean vertex error in mm of each mesh reconstructed from its first modes, for each of `counts`, ascending."""
    modes, found = jnp.asarray(modes), []
    for start in range(0, len(vertices), BATCH):
        rows = slice(start, start + BATCH)
        pad = [(0, BATCH - len(vertices[rows])), (0, 0), (0, 0)]
        batch = np.pad(coefficients[rows], pad), np.pad(vertices[rows], pad)
        found.append(np.asarray(_batch_errors_mm(modes, *batch, counts), np.float64))
    return np.concatenate(found)[: len(vertices)]


@partial(jax.jit, static_argnames="counts")
def _batch_errors_mm(modes, coefficients, vertices, counts):
    """Errors (batch, count). Bands are added one by one, so all counts together cost one reconstruction."""
    reconstructed, errors = jnp.zeros_like(vertices), []
    for start, stop in pairwise((0, *counts)):
        band = slice(start, stop)
        reconstructed += jnp.einsum("vf,bfc->bvc", modes[:, band], coefficients[:, band], precision="highest")
        errors.append(vertex_errors_mm(reconstructed, vertices).mean(axis=-1))
    return jnp.stack(errors, axis=-1)


def coarsen(spectrum: Spectrum, counts: tuple[int, ...]) -> Spectrum:
    """The spectrum at some of its counts, which include the last, with the bands in between merged."""
    kept = [spectrum.counts.index(count) for count in counts]
    starts = [0, *(k + 1 for k in kept[:-1])]
    return Spectrum(
        counts,
        None if spectrum.mean_mm is None else spectrum.mean_mm[kept],
        None if spectrum.max_mm is None else spectrum.max_mm[kept],
        np.add.reduceat(spectrum.energy_percent, starts),
        np.sqrt(np.add.reduceat(spectrum.amplitude_mm**2, starts)),
    )
