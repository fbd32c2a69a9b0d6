"""Paths between meshes and between latents, spectral bands, the statistics of latents: pure functions of arrays.

A decoder is any function from latents (batch, latent) to coefficients (batch, freq, 3) that treats its rows alike.
Lengths and energies are those of coefficients: with orthonormal modes, those of the vertices they reconstruct.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

DAMPINGS = (1e-6, 1e-2, 1.0, 1e1, 1e3)  # steps tried at once: Gauss-Newton's, and down to a short one down the gradient


@jax.jit
def straight(
    start: Float[Array | np.ndarray, "*shape"],
    end: Float[Array | np.ndarray, "..."],
    amounts: Float[Array | np.ndarray, "step"],
) -> Float[Array, "step *shape"]:
    """The straight line between coefficients, or latents: the start at amount 0, the end at 1, beyond them outside.

    Raises ValueError for unequal shapes.
    """
    _check_same_shape(start, end)
    t = jnp.asarray(amounts).reshape(-1, *[1] * start.ndim)
    return (1 - t) * start[None] + t * end[None]


@jax.jit
def spherical(
    start: Float[Array | np.ndarray, "latent"],
    end: Float[Array | np.ndarray, "..."],
    amounts: Float[Array | np.ndarray, "step"],
) -> Float[Array, "step latent"]:
    """Between latents along a great circle at a steady angle, the norm changing linearly (Shoemake 1985).

    Opposite ends (within 2e-4 rad) have no one great circle and an end of zero no direction: the line is straight
    there. Raises ValueError for unequal shapes.
    """
    _check_same_shape(start, end)
    t = amounts[:, None]
    start_norm, end_norm = jnp.linalg.norm(start), jnp.linalg.norm(end)
    apart = jnp.linalg.norm(start * end_norm - end * start_norm)
    together = jnp.linalg.norm(start * end_norm + end * start_norm)
    angle = 2 * jnp.arctan2(apart, together)

    def share(t):  # sin(t angle) / sin(angle), also where the angle is 0
        return t * jnp.sinc(t * angle / jnp.pi) / jnp.sinc(angle / jnp.pi)

    norm = (1 - t) * start_norm + t * end_norm
    bent = norm / start_norm * share(1 - t) * start[None] + norm / end_norm * share(t) * end[None]
    between = (t != 0) & (t != 1) & (together > 1e-4 * apart)  # the line ends exactly, sines nearly
    return jnp.where(between, bent, straight(start, end, amounts))


@jax.jit
def spline(
    points: Float[Array | np.ndarray, "point latent"], amounts: Float[Array | np.ndarray, "step"]
) -> Float[Array, "step latent"]:
    """The natural cubic spline through latents, point i of n at amount i / (n - 1); straight beyond the ends.

    Twice continuously differentiable; two points make the straight line. Raises ValueError for fewer.
    """
    last = len(points) - 1
    if last < 1:
        raise ValueError(f"a spline needs at least 2 points, not {len(points)}")
    bends = 6 * (points[:-2] - 2 * points[1:-1] + points[2:])
    matrix = 4 * jnp.eye(last - 1) + jnp.eye(last - 1, k=1) + jnp.eye(last - 1, k=-1)
    second = jnp.pad(jnp.linalg.solve(matrix, bends), ((1, 1), (0, 0)))
    t = last * amounts
    i = jnp.clip(jnp.floor(t), 0, last - 1).astype(int)
    p, q, bend_p, bend_q = points[i], points[i + 1], second[i], second[i + 1]
    t = (t - i)[:, None]
    u = jnp.clip(t, 0, 1)
    v = 1 - u
    inside = v * p + u * q + ((v**3 - v) * bend_p + (u**3 - u) * bend_q) / 6
    slope = q - p + ((1 - 3 * v**2) * bend_p + (3 * u**2 - 1) * bend_q) / 6
    return inside + (t - u) * slope


def energy(path: Float[Array | np.ndarray, "point freq 3"]) -> Float[Array, ""]:
    """Discrete energy of a path of coefficients, m^2: the number of steps times the sum of their squared lengths."""
    return (len(path) - 1) * jnp.sum(jnp.diff(jnp.asarray(path), axis=0) ** 2)


@jax.default_matmul_precision("highest")
def metric(decode: Callable, latent: Float[Array | np.ndarray, "latent"]) -> Float[Array, "latent latent"]:
    """The pulled-back metric G = J^T J of a decoder at a latent: |J dz|^2 = dz^T G dz (Arvanitidis et al. 2018)."""
    jacobian = _jacobian(decode, jnp.asarray(latent))
    return jacobian.T @ jacobian


class Geodesic(NamedTuple):
    """A path of least energy, and how it was found.

    Attributes:
      latents: of the path, both ends included.
      straight_energy: m^2, of the straight line of latents it started from (see `energy`).
      energy: m^2, never above `straight_energy`.
      gradient_norm: of the energy, in the norm dual to path length: about how far, as a share of the path's length,
        the path still is from the minimum.
      converged: whether that is at most the tolerance.
      iterations: steps taken.
    """

    latents: Float[Array, "point latent"]
    straight_energy: Float[Array, ""]
    energy: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    converged: Bool[Array, ""]
    iterations: Int[Array, ""]


@jax.default_matmul_precision("highest")
def geodesic(
    decode: Callable,
    start: Float[Array | np.ndarray, "latent"],
    end: Float[Array | np.ndarray, "..."],
    num_points: int = 32,
    max_iterations: int = 50,
    tolerance: float = 3e-4,
) -> Geodesic:
    """The evenly spaced path between two latents whose decoded meshes move least, downhill from the straight one.

    Damped Gauss-Newton on the discrete energy; wrap it in `jax.jit` for more than one pair. It ends at the tolerance
    (float32 allows some 1e-4), at the last iteration or where no step lowers the energy. A local minimum, the same
    both ways. Raises ValueError for unequal shapes or under 3 points.
    """
    _check_same_shape(start, end)
    if num_points < 3:
        raise ValueError(f"a geodesic needs at least 3 points, not {num_points}")
    turned = jnp.sum(start) > jnp.sum(end)  # so that the way back is the same path, not only up to rounding
    start, end = jnp.where(turned, end, start), jnp.where(turned, start, end)

    def with_ends(inner):
        return jnp.concatenate([start[None], inner, end[None]])

    def steps_of(inner):
        decoded = decode(with_ends(inner))
        return jnp.diff(decoded.reshape(num_points, -1), axis=0)

    def iterate(carry):
        inner, steps, now, norm, iterations, _ = carry
        jacobians = jax.vmap(lambda latent: _jacobian(decode, latent))(inner)
        gradient = jnp.einsum("pfa,pf->pa", jacobians, steps[:-1] - steps[1:])
        own = jnp.einsum("pfa,pfb->pab", jacobians, jacobians)
        shared = jnp.einsum("pfa,pfb->pab", jacobians[:-1], jacobians[1:])
        scale = jnp.maximum(jnp.max(jnp.trace(own, axis1=1, axis2=2)), 1e-20)

        def damped(damping):  # as if the decoder also put out the latents, times the root of this
            extra = damping * scale * jnp.eye(len(start))[None]
            return _solve_tridiagonal(2 * (own + extra), -(shared + extra), gradient)

        moves = jax.vmap(damped)(jnp.array(DAMPINGS))
        tried = jax.lax.map(lambda move: steps_of(inner - move), moves)
        # of the sums of squares, by products: near the minimum a difference of sums would be mostly rounding
        changes = jnp.sum((tried - steps[None]) * (tried + steps[None]), axis=(1, 2))
        best = jnp.argmin(jnp.where(jnp.isfinite(changes), changes, jnp.inf))
        total = jnp.sum(steps**2)
        norm = jnp.sqrt(jnp.maximum(jnp.sum(gradient * moves[0]), 0) / jnp.where(total > 0, total, 1))
        going = (norm > tolerance) & (changes[best] < 0) & (iterations < max_iterations)
        inner = jnp.where(going, inner - moves[best], inner)
        steps = jnp.where(going, tried[best], steps)
        now = jnp.where(going, now + (num_points - 1) * changes[best], now)
        return inner, steps, now, norm, iterations + going, going

    inner = straight(start, end, jnp.linspace(0, 1, num_points)[1:-1])
    steps = steps_of(inner)
    before = (num_points - 1) * jnp.sum(steps**2)
    first = (inner, steps, before, jnp.array(jnp.inf), jnp.array(0), jnp.array(True))
    inner, _, after, norm, iterations, _ = jax.lax.while_loop(lambda carry: carry[-1], iterate, first)
    latents = with_ends(inner)
    latents = jnp.where(turned, latents[::-1], latents)
    return Geodesic(latents, before, after, norm, norm <= tolerance, iterations)


def _jacobian(decode: Callable, latent: Array) -> Array:
    """Derivatives (freq * 3, latent) of a decoder at one latent."""
    return jax.jacfwd(lambda latent: decode(latent[None]).ravel())(latent)


def _solve_tridiagonal(diagonal: Array, upper: Array, right: Array) -> Array:
    """x (n, size) of a symmetric positive block-tridiagonal system: n diagonal blocks, n - 1 above, right (n, size)."""
    nothing = jnp.zeros_like(diagonal[:1])
    above, left = jnp.concatenate([upper, nothing]), jnp.concatenate([nothing, upper])

    def eliminate(last, row):
        diagonal, above, left, right = row
        pivot = diagonal - left.T @ last[:, :-1]
        rest = (right - left.T @ last[:, -1])[:, None]
        last = jax.scipy.linalg.solve(pivot, jnp.concatenate([above, rest], axis=1), assume_a="pos")
        return last, last

    def substitute(x, row):
        x = row[:, -1] - row[:, :-1] @ x
        return x, x

    empty = jnp.zeros((right.shape[1], right.shape[1] + 1))
    rows = jax.lax.scan(eliminate, empty, (diagonal, above, left, right))[1]
    return jax.lax.scan(substitute, jnp.zeros_like(right[0]), rows, reverse=True)[1]


def mix_bands(
    low: Float[Array | np.ndarray, "freq 3"], high: Float[Array | np.ndarray, "..."], cut: int, width: int = 0
) -> Float[Array, "freq 3"]:
    """The first `cut` modes of one mesh and the others of another, crossing over smoothly within `width` modes there.

    Near the first and the last mode the cross-over narrows to fit, so all of one mesh is at hand at either extreme.
    Raises ValueError for unequal shapes, a cut beyond the modes or a negative width.
    """
    _check_same_shape(low, high)
    if not 0 <= cut <= len(low):
        raise ValueError(f"the cut must be from 0 to the {len(low)} modes there are, not {cut}")
    if width < 0:
        raise ValueError(f"the width of the cross-over must be at least 0, not {width}")
    width = max(1, min(width, 2 * cut, 2 * (len(low) - cut)))  # 1 is sharp: modes lie half way between cuts
    ramp = jnp.clip((jnp.arange(len(low)) + 0.5 - cut) / width + 0.5, 0, 1)[:, None]
    weight = ramp**2 * (3 - 2 * ramp)
    return (1 - weight) * low + weight * high


def low_pass(coefficients: Float[Array | np.ndarray, "freq 3"], cut: int, width: int = 0) -> Float[Array, "freq 3"]:
    """The first `cut` modes of a mesh, fading out smoothly within `width` modes there. Raises as `mix_bands` does."""
    return mix_bands(coefficients, jnp.zeros_like(coefficients), cut, width)


def nearest(
    latents: Float[Array | np.ndarray, "mesh latent"], query: Float[Array | np.ndarray, "latent"], count: int
) -> tuple[Int[Array, "count"], Float[Array, "count"]]:
    """Indices and distances of the latents nearest to one, nearest first. Raises ValueError for an unusable count."""
    if not 1 <= count <= len(latents):
        raise ValueError(f"the count must be from 1 to the {len(latents)} latents there are, not {count}")
    negated, indices = jax.lax.top_k(-jnp.linalg.norm(latents - query[None], axis=1), count)
    return indices, -negated


class Directions(NamedTuple):
    """Principal components: unit rows, the widest first, and the standard deviation along each."""

    directions: Float[Array, "component latent"]
    deviations: Float[Array, "component"]


@jax.jit
def principal_directions(latents: Float[Array | np.ndarray, "mesh latent"]) -> Directions:
    """The principal directions of latents, each one's largest entry positive. Raises ValueError for under 2 latents."""
    if len(latents) < 2:
        raise ValueError(f"a spread needs at least 2 latents, not {len(latents)}")
    centred = latents - jnp.mean(latents, axis=0, keepdims=True)
    _, singular, rows = jnp.linalg.svd(centred, full_matrices=False)
    largest = jnp.take_along_axis(rows, jnp.argmax(jnp.abs(rows), axis=1, keepdims=True), axis=1)
    return Directions(rows * jnp.sign(largest), singular / (len(latents) - 1) ** 0.5)


class Gaussian(NamedTuple):
    """A normal distribution of latents: its covariance is factor @ factor.T, its spread the norm of the factor."""

    mean: Float[Array, "latent"]
    factor: Float[Array, "latent component"]


@jax.jit
def fit_gaussian(latents: Float[Array | np.ndarray, "mesh latent"]) -> Gaussian:
    """The Gaussian with the mean and the covariance of latents. Raises ValueError for under 2 latents."""
    directions, deviations = principal_directions(latents)
    return Gaussian(jnp.mean(latents, axis=0), directions.T * deviations[None])


def sample(key: Array, gaussian: Gaussian, count: int) -> Float[Array, "count latent"]:
    """Random latents of a Gaussian."""
    normal = jax.random.normal(key, (count, gaussian.factor.shape[1]))
    return gaussian.mean[None] + jnp.einsum("nc,lc->nl", normal, gaussian.factor, precision="highest")


def traverse(
    latent: Float[Array | np.ndarray, "latent"],
    direction: Float[Array | np.ndarray, "latent"],
    amounts: Float[Array | np.ndarray, "step"],
) -> Float[Array, "step latent"]:
    """Latents along a direction, the given one at amount 0, one length of the direction further at 1."""
    return jnp.asarray(latent)[None] + jnp.reshape(amounts, (-1, 1)) * direction[None]


def _check_same_shape(start: Array | np.ndarray, end: Array | np.ndarray) -> None:
    """Raise ValueError with both shapes unless they are equal."""
    if start.shape != end.shape:
        raise ValueError(f"the ends must have equal shapes, not {start.shape} and {end.shape}")
