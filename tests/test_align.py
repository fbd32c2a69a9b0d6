import numpy as np
import pytest

from spectral_jax import align, upstream
from spectral_jax import basis as spectral
from spectral_jax.basis import SpectralBasis
from spectral_jax.cli import main

from .test_golden import TINY

# The repeated eigenvalues of the sphere's graph, as (first, size).
def repeated(basis, gap=1e-6):
    groups = align._groups(np.arange(basis.num_modes), basis.eigenvalues, gap)
    return [(int(group[0]), len(group)) for group in groups if len(group) > 1]


def turned(basis, seed=0, flips=True):
    """The basis as another solver might give it: random signs, random rotations inside repeated eigenvalues."""
    rng = np.random.default_rng(seed)
    modes = np.asarray(basis.modes, np.float64) * rng.choice([-1, 1], basis.num_modes)
    for first, size in repeated(basis):
        group = slice(first, first + size)
        modes[:, group] = modes[:, group] @ np.linalg.qr(rng.normal(size=(size, size)))[0]
    return SpectralBasis(modes.astype(np.float32), basis.eigenvalues, basis.faces)


def flipped(basis, which):
    signs = np.ones(basis.num_modes, np.float32)
    signs[which] = -1
    return SpectralBasis(np.asarray(basis.modes) * signs, basis.eigenvalues, basis.faces)


def random_meshes(basis, count, seed=0):
    vertices = np.random.default_rng(seed).normal(size=(count, basis.num_vertices, 3)).astype(np.float32)
    return vertices, np.asarray(spectral.project(basis, vertices))


@pytest.fixture(scope="module")
def body_basis():
    """A basis without repeated eigenvalues."""
    return upstream.open_upstream(TINY / "root").basis
