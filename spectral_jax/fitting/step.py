"""Steps of a fit: the shapes and poses of a batch of scans moved towards their points, for fixed faces near each point.

A vertex x of the network's shape is at scale * rotation @ x + translation in the scan. The shape is decoded from
latent = mean + factor @ code, mean and factor being those of a Gaussian of latents; a residual in the lowest modes is
added to its coefficients. What is minimised is the mean over points of a robust square of their distances to the
surface (Geman and McClure 1987), plus the square of the code: latents as probable as their Gaussian says.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from spectral_jax.basis import spectral
from spectral_jax.fitting.closest import Closest, closest_points
from spectral_jax.network.codec import Codec, decode_batch
from spectral_jax.network.density import Gaussian

WIDTH = 8.0  # of the robust square, in median distances: with 4, an arm far from its points never reached them
TANGENT = 0.05  # weight of motion along the surface, which a distance to the surface does not see
DAMPING = 1e-6  # of the normal equations, as a share of their diagonal


class Fit(NamedTuple):
    """Shapes and poses of a batch; `residual` is added to their lowest coefficients."""

    code: Float[Array | np.ndarray, "batch component"]
    residual: Float[Array | np.ndarray, "batch low 3"]
    rotation: Float[Array | np.ndarray, "batch 3 3"]
    translation: Float[Array | np.ndarray, "batch 3"]
    scale: Float[Array | np.ndarray, "batch"]


class Target(NamedTuple):
    """What a batch is fitted to: points in metres, and the places of some vertices, the landmarks."""

    points: Float[Array | np.ndarray, "batch point 3"]
    landmarks: Int[Array | np.ndarray, "batch landmark"]
    places: Float[Array | np.ndarray, "batch landmark 3"]


class Strength(NamedTuple):
    """What each term counts beside the mean square of the points' distances.

    Attributes:
      prior: of the squared code, in square metres.
      landmarks: of the mean squared distance of the landmarks.
      elastic: of the residual's mean squared displacement, each mode weighted by its eigenvalue over the largest.
    """

    prior: float
    landmarks: float
    elastic: float


@functools.partial(jax.jit, static_argnames="modes")
@jax.default_matmul_precision("highest")
def posed(codec: Codec, prior: Gaussian, fit: Fit, modes: int) -> Float[Array, "batch vertex 3"]:
    """Vertices in the scans' coordinates, of the first `modes` modes."""
    vertices = jax.vmap(lambda code, residual: _surface(codec, prior, code, residual, modes))(fit.code, fit.residual)
    return jax.vmap(_turn)(fit, vertices) + fit.translation[:, None]


@functools.partial(jax.jit, static_argnames=("modes", "scaled"))
@jax.default_matmul_precision("highest")
def improve(
    codec: Codec,
    prior: Gaussian,
    fit: Fit,
    target: Target,
    near: Int[Array | np.ndarray, "batch point near"],
    strength: Strength,
    modes: int,
    scaled: bool,
) -> tuple[Fit, Float[Array, "batch"]]:
    """One Gauss-Newton step for codes and poses, with the scale if `scaled`; and the errors before it.

    `near` are faces near each point, among which the closest points are found. Only the first `modes` modes count.
    """

    def one(fit: Fit, target: Target, near: Any) -> tuple[Fit, Array]:
        return _step(codec, prior, fit, target, near, strength, modes, scaled)

    return jax.vmap(one)(fit, target, near)


@functools.partial(jax.jit, static_argnames="modes")
@jax.default_matmul_precision("highest")
def refine(
    codec: Codec,
    prior: Gaussian,
    fit: Fit,
    target: Target,
    near: Int[Array | np.ndarray, "batch point near"],
    strength: Strength,
    modes: int,
) -> Fit:
    """One Gauss-Newton step for the residuals alone. Raises ValueError for more modes than the network has."""

    def one(fit: Fit, target: Target, near: Any) -> Fit:
        basis, count = codec.require_basis(), len(fit.residual)
        vertices = _turn(fit, _surface(codec, prior, fit.code, fit.residual, modes)) + fit.translation[None]
        closest, normals, weights, _ = _match(codec, vertices, target, near)
        phi = jnp.asarray(basis.modes)[:, :count]
        turn = fit.scale * fit.rotation
        rows = jnp.einsum("pi,ij,pm->pmj", normals, turn, _at(closest, phi)).reshape(len(normals), -1)
        along = jnp.sum(normals * (_at(closest, vertices) - target.points), axis=1)
        marked = jnp.einsum("ij,lm->limj", turn, phi[target.landmarks]).reshape(-1, 3 * count)
        missed = (vertices[target.landmarks] - target.places).ravel()
        share = strength.landmarks / max(len(target.landmarks), 1)
        eigenvalues = jnp.asarray(basis.eigenvalues, jnp.float32)[:count]
        stiffness = jnp.maximum(eigenvalues / eigenvalues[-1], DAMPING) * strength.elastic / len(vertices)
        stiffness = jnp.repeat(stiffness, 3)
        normal = rows.T @ (weights[:, None] * rows) + share * marked.T @ marked + jnp.diag(stiffness)
        gradient = rows.T @ (weights * along) + share * marked.T @ missed + stiffness * fit.residual.ravel()
        return fit._replace(residual=fit.residual - jnp.linalg.solve(normal, gradient).reshape(count, 3))

    return jax.vmap(one)(fit, target, near)


def _surface(codec: Codec, prior: Gaussian, code: Any, residual: Any, modes: int) -> Array:
    """Vertices (vertex, 3) of a code in the network's pose, of the first modes."""
    return spectral.reconstruct(codec.require_basis(), _coefficients(codec, prior, code, residual, modes))


def _coefficients(codec: Codec, prior: Gaussian, code: Any, residual: Any, modes: int) -> Array:
    """Coefficients (freq, 3) of a code, of the first modes."""
    latent = prior.mean + jnp.asarray(prior.factor) @ code
    return decode_batch(codec, latent[None])[0].at[: len(residual)].add(residual)[:modes]


def _turn(fit: Fit, vertices: Array) -> Array:
    """Vertices (vertex, 3) turned and scaled."""
    return jnp.einsum("ij,vj->vi", fit.scale * jnp.asarray(fit.rotation), vertices)


def _at(closest: Closest, values: Array) -> Array:
    """Values of vertices (vertex, ...) at closest points."""
    return jnp.einsum("pk,pk...->p...", closest.weights, values[closest.corners])


def _match(codec: Codec, vertices: Array, target: Target, near: Array) -> tuple[Closest, Array, Array, Array]:
    """Closest points, the directions in which the points are off, their robust weights, and the robust mean square."""
    faces = jnp.asarray(codec.require_basis().faces)
    closest = closest_points(vertices, faces, jnp.asarray(target.points), near)
    off, distances = _at(closest, vertices) - target.points, closest.distances
    a, b, c = (vertices[closest.corners[:, corner]] for corner in range(3))
    normals = jnp.cross(b - a, c - a)
    normals = normals / (jnp.linalg.norm(normals, axis=1, keepdims=True) + 1e-20)
    width = WIDTH * jnp.median(distances) + 1e-6
    shares = width**2 / (width**2 + jnp.square(distances))
    # Off a triangle's inside, the gradient of the distance is the direction to the point, and not the normal.
    directions = jnp.where((distances > 1e-5)[:, None], off / (distances[:, None] + 1e-20), normals)
    return closest, directions, jnp.square(shares) / len(off), jnp.mean(shares * jnp.square(distances))


def _step(
    codec: Codec, prior: Gaussian, fit: Fit, target: Target, near: Any, strength: Strength, modes: int, scaled: bool
) -> tuple[Fit, Array]:
    """A Gauss-Newton step of one scan, and the error before it."""

    def shape(code: Array) -> tuple[Array, Array]:
        coefficients = _coefficients(codec, prior, code, fit.residual, modes)
        return coefficients, coefficients

    by_mode, coefficients = jax.jacfwd(shape, has_aux=True)(fit.code)
    by_mode = jnp.einsum("ij,fju->fiu", fit.scale * jnp.asarray(fit.rotation), by_mode)
    phi = jnp.asarray(codec.require_basis().modes)[:, :modes]

    def jacobian(phi: Array) -> Array:
        """Derivatives (point, 3, component) by the code where the modes have these values."""
        return jnp.einsum("pf,fiu->piu", phi, by_mode)

    turned = _turn(fit, spectral.reconstruct(codec.require_basis(), coefficients))
    vertices = turned + fit.translation[None]
    closest, directions, weights, error = _match(codec, vertices, target, near)
    off = _at(closest, vertices) - target.points
    few = len(off) < len(phi)  # a fine mesh: derivatives at the points are less work than at all vertices
    moves = jacobian(_at(closest, phi)) if few else _at(closest, jacobian(phi))
    rows = _motion(moves, _at(closest, turned), scaled)
    across = jnp.einsum("pi,piu->pu", directions, rows)
    normal = across.T @ (weights[:, None] * across) + TANGENT * jnp.einsum("p,piu,piw->uw", weights, rows, rows)
    gradient = (1 + TANGENT) * jnp.einsum("p,piu,pi->u", weights, rows, off)
    if len(target.landmarks):
        marked = _motion(jacobian(phi[target.landmarks]), turned[target.landmarks], scaled)
        missed = vertices[target.landmarks] - target.places
        share = strength.landmarks / len(missed)
        normal = normal + share * jnp.einsum("liu,liw->uw", marked, marked)
        gradient = gradient + share * jnp.einsum("liu,li->u", marked, missed)
        error = error + share * jnp.sum(jnp.square(missed))
    size = len(fit.code)
    normal = normal.at[:size, :size].add(strength.prior * jnp.eye(size))
    gradient = gradient.at[:size].add(strength.prior * fit.code)
    error = error + strength.prior * jnp.sum(jnp.square(fit.code))
    change = -jnp.linalg.solve(normal + DAMPING * jnp.diag(jnp.diag(normal)), gradient)
    moved = fit._replace(
        code=fit.code + change[:size],
        rotation=_rotation(change[size : size + 3]) @ fit.rotation,
        translation=fit.translation + change[size + 3 : size + 6],
    )
    return (moved._replace(scale=fit.scale * jnp.exp(change[size + 6])) if scaled else moved), error


def _motion(jacobian: Array, turned: Array, scaled: bool) -> Array:
    """Derivatives (point, 3, unknown) of points: by the code, a turn, a shift, and the logarithm of the scale."""
    x, y, z = turned.T
    o = jnp.zeros_like(x)
    spin = jnp.stack([o, z, -y, -z, o, x, y, -x, o], axis=1).reshape(-1, 3, 3)
    shift = jnp.broadcast_to(jnp.eye(3), spin.shape)
    return jnp.concatenate([jacobian, spin, shift, *([turned[:, :, None]] if scaled else [])], axis=2)


def _rotation(vector: Array) -> Array:
    """The rotation about a vector by its length (Rodrigues)."""
    angle = jnp.sqrt(jnp.sum(jnp.square(vector)) + 1e-20)
    x, y, z = vector / angle
    o = jnp.zeros_like(x)
    cross = jnp.stack([o, -z, y, z, o, -x, -y, x, o]).reshape(3, 3)
    return jnp.eye(3) + jnp.sin(angle) * cross + (1 - jnp.cos(angle)) * cross @ cross
