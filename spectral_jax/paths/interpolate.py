"""Paths between meshes and between latents, and filters of frequency bands: pure functions of arrays.

A decoder is any function from latents (batch, latent) to coefficients (batch, freq, 3) that maps each row alone.
Lengths and energies are measured in coefficients. With orthonormal modes these equal those of the vertices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from spectral_jax.network.codec import Codec, decode_rows_batch

DAMPINGS = (1e-6, 1e-2, 1.0, 1e1, 1e3)  # tried at once: from a Gauss-Newton step to a short one down the gradient


@jax.jit
def straight(
    start: Float[Array | np.ndarray, "*shape"],
    end: Float[Array | np.ndarray, "..."],
    amounts: Float[Array | np.ndarray, "step"],
) -> Float[Array, "step *shape"]:
    """The straight line between coefficients or latents: start at amount 0, end at 1; other amounts extrapolate.

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
    """The path between latents along a great circle, with a linear norm (slerp, Shoemake 1985).

    It is straight where there is no unique great circle: between opposite ends (within 2e-4 rad), and where an end is
    0. Raises ValueError for unequal shapes.
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
    between = (t != 0) & (t != 1) & (together > 1e-4 * apart)  # at the ends, sines are exact only up to rounding
    return jnp.where(between, bent, straight(start, end, amounts))


@jax.jit
def spline(
    points: Float[Array | np.ndarray, "point latent"], amounts: Float[Array | np.ndarray, "step"]
) -> Float[Array, "step latent"]:
    """The natural cubic spline through n latents, point i at amount i / (n - 1); straight beyond the ends.

    It is twice continuously differentiable. Two points give the straight line, fewer raise ValueError.
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
    """Discrete energy of a path of coefficients, m^2: the number of steps times the sum of squared lengths."""
    return (len(path) - 1) * jnp.sum(jnp.diff(jnp.asarray(path), axis=0) ** 2)


@jax.default_matmul_precision("highest")
def metric(decode: Callable, latent: Float[Array | np.ndarray, "latent"]) -> Float[Array, "latent latent"]:
    """The pulled-back metric G = J^T J of a decoder at a latent: |J dz|^2 = dz^T G dz (Arvanitidis et al. 2018)."""
    jacobian = _jacobian(decode, jnp.asarray(latent))
    return jacobian.T @ jacobian


class Geodesic(NamedTuple):
    """A path of locally least energy, and how it was found.

    Attributes:
      latents: of the path, both ends included.
      straight_energy: of the straight line of latents from which the search started, m^2 (see `energy`).
      energy: m^2, never above `straight_energy`.
      gradient_norm: norm of the energy's gradient, dual to path length: about the distance of the path from the
        minimum as a share of its length.
      converged: whether `gradient_norm` is within the tolerance.
      iterations: steps taken.
    """

    latents: Float[Array, "point latent"]
    straight_energy: Float[Array, ""]
    energy: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    converged: Bool[Array, ""]
    iterations: Int[Array, ""]


class _State(NamedTuple):
    """An iteration of `geodesic`.

    Attributes:
      inner: latents between the two ends.
      steps: differences of the decoded points, flat.
      energy, gradient_norm: as in `Geodesic`, of the point where the last step began.
      iterations: steps taken.
      going: whether the last step was taken, and lowered the energy.
    """

    inner: Float[Array, "inner latent"]
    steps: Float[Array, "step value"]
    energy: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    iterations: Int[Array, ""]
    going: Bool[Array, ""]


@jax.default_matmul_precision("highest")
def geodesic(
    decode: Callable,
    start: Float[Array | np.ndarray, "latent"],
    end: Float[Array | np.ndarray, "..."],
    num_points: int = 32,
    max_iterations: int = 50,
    tolerance: float = 3e-4,
) -> Geodesic:
    """The evenly spaced path between two latents whose decoded meshes move least: a local minimum.

    Damped Gauss-Newton on the discrete energy, from the straight line. It ends at the tolerance (float32 reaches about
    1e-4), after `max_iterations`, or when no step lowers the energy. Swapped ends give the same path backwards. For
    more than one pair, wrap it in `jax.jit`. Raises ValueError for unequal shapes or fewer than 3 points.
    """
    _check_same_shape(start, end)
    if num_points < 3:
        raise ValueError(f"a geodesic needs at least 3 points, not {num_points}")
    swapped = jnp.sum(start) > jnp.sum(end)  # one order for both ways, so that they agree bit for bit
    start, end = jnp.where(swapped, end, start), jnp.where(swapped, start, end)

    def whole(inner):
        return jnp.concatenate([start[None], inner, end[None]])

    def steps_of(inner):
        return jnp.diff(decode(whole(inner)).reshape(num_points, -1), axis=0)

    def iterate(state):
        return _gauss_newton(decode, steps_of, state, max_iterations, tolerance)

    inner = straight(start, end, jnp.linspace(0, 1, num_points)[1:-1])
    steps = steps_of(inner)
    straight_energy = (num_points - 1) * jnp.sum(steps**2)
    first = _State(inner, steps, straight_energy, jnp.array(jnp.inf), jnp.array(0), jnp.array(True))
    last = jax.lax.while_loop(lambda state: state.going, iterate, first)
    latents = whole(last.inner)
    latents = jnp.where(swapped, latents[::-1], latents)
    converged = last.gradient_norm <= tolerance
    return Geodesic(latents, straight_energy, last.energy, last.gradient_norm, converged, last.iterations)


@functools.partial(jax.jit, static_argnames="num_points")
def codec_geodesic(
    codec: Codec, start: Float[Array | np.ndarray, "latent"], end: Float[Array | np.ndarray, "..."], num_points: int
) -> Geodesic:
    """The geodesic of a trained network's decoder, compiled once for each number of points. Raises as `geodesic`."""
    return geodesic(functools.partial(decode_rows_batch, codec), start, end, num_points)


def _gauss_newton(decode: Callable, steps_of: Callable, state: _State, max_iterations: int, tolerance: float) -> _State:
    """One step of `geodesic`: the best of several dampings, if it lowers the energy and the path is not yet minimal."""
    inner, steps = state.inner, state.steps
    jacobians = jax.vmap(lambda latent: _jacobian(decode, latent))(inner)
    gradient = jnp.einsum("pfa,pf->pa", jacobians, steps[:-1] - steps[1:])
    moves = _damped_moves(jacobians, gradient)
    tried = jax.lax.map(lambda move: steps_of(inner - move), moves)
    # Differences of squares as products: near the minimum, a difference of two sums would be mostly rounding.
    changes = jnp.sum((tried - steps[None]) * (tried + steps[None]), axis=(1, 2))
    best = jnp.argmin(jnp.where(jnp.isfinite(changes), changes, jnp.inf))
    total = jnp.sum(steps**2)
    norm = jnp.sqrt(jnp.maximum(jnp.sum(gradient * moves[0]), 0) / jnp.where(total > 0, total, 1))
    going = (norm > tolerance) & (changes[best] < 0) & (state.iterations < max_iterations)
    return _State(
        inner=jnp.where(going, inner - moves[best], inner),
        steps=jnp.where(going, tried[best], steps),
        energy=jnp.where(going, state.energy + len(steps) * changes[best], state.energy),
        gradient_norm=norm,
        iterations=state.iterations + going,
        going=going,
    )


def _damped_moves(
    jacobians: Float[Array, "inner value latent"], gradient: Float[Array, "inner latent"]
) -> Float[Array, "damping inner latent"]:
    """Gauss-Newton moves of the inner latents, one for each of DAMPINGS.

    A damping acts as if the decoder also put out the latents, scaled by the root of the damping.
    """
    own = jnp.einsum("pfa,pfb->pab", jacobians, jacobians)
    shared = jnp.einsum("pfa,pfb->pab", jacobians[:-1], jacobians[1:])
    scale = jnp.maximum(jnp.max(jnp.trace(own, axis1=1, axis2=2)), 1e-20)

    def move(damping):
        extra = damping * scale * jnp.eye(gradient.shape[1])[None]
        return _solve_tridiagonal(2 * (own + extra), -(shared + extra), gradient)

    return jax.vmap(move)(jnp.array(DAMPINGS))


def _jacobian(decode: Callable, latent: Array) -> Array:
    """Derivatives (freq * 3, latent) of a decoder at one latent."""
    return jax.jacfwd(lambda latent: decode(latent[None]).ravel())(latent)


def _solve_tridiagonal(diagonal: Array, upper: Array, right: Array) -> Array:
    """Solution (n, size) of a symmetric positive definite system: n diagonal blocks, n - 1 blocks above them."""
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
    """The first `cut` modes of one mesh and the other modes of another, blended smoothly over `width` modes.

    Near the first and the last mode the blend narrows, so cuts of 0 and of all modes give one whole mesh. Raises
    ValueError for unequal shapes, a cut out of range or a negative width.
    """
    _check_same_shape(low, high)
    if not 0 <= cut <= len(low):
        raise ValueError(f"the cut must be from 0 to {len(low)} modes, not {cut}")
    if width < 0:
        raise ValueError(f"the width must be at least 0, not {width}")
    width = max(1, min(width, 2 * cut, 2 * (len(low) - cut)))  # 1 is sharp: modes lie halfway between cuts
    ramp = jnp.clip((jnp.arange(len(low)) + 0.5 - cut) / width + 0.5, 0, 1)[:, None]
    weight = ramp**2 * (3 - 2 * ramp)
    return (1 - weight) * low + weight * high


def low_pass(coefficients: Float[Array | np.ndarray, "freq 3"], cut: int, width: int = 0) -> Float[Array, "freq 3"]:
    """The first `cut` modes of a mesh, fading out smoothly over `width` modes. Raises as `mix_bands` does."""
    return mix_bands(coefficients, jnp.zeros_like(coefficients), cut, width)


def nearest(
    latents: Float[Array | np.ndarray, "mesh latent"], query: Float[Array | np.ndarray, "latent"], count: int
) -> tuple[Int[Array, "count"], Float[Array, "count"]]:
    """Indices and distances of the `count` latents nearest to one, nearest first.

    Raises ValueError for a count out of range.
    """
    if not 1 <= count <= len(latents):
        raise ValueError(f"the count must be from 1 to {len(latents)} latents, not {count}")
    negated, indices = jax.lax.top_k(-jnp.linalg.norm(latents - query[None], axis=1), count)
    return indices, -negated


def traverse(
    latent: Float[Array | np.ndarray, "latent"],
    direction: Float[Array | np.ndarray, "latent"],
    amounts: Float[Array | np.ndarray, "step"],
) -> Float[Array, "step latent"]:
    """Latents along a direction: the given latent at amount 0, latent + direction at amount 1."""
    return jnp.asarray(latent)[None] + jnp.reshape(amounts, (-1, 1)) * direction[None]


def _check_same_shape(start: Array | np.ndarray, end: Array | np.ndarray) -> None:
    """Raise ValueError with both shapes unless they are equal."""
    if start.shape != end.shape:
        raise ValueError(f"the ends must have equal shapes, not {start.shape} and {end.shape}")
