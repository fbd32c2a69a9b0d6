"""One step of training, and validation, as pure functions over arrays."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from spectral_jax.geometry.metrics import map_batches, vertex_errors_mm
from spectral_jax.network.autoencoder import SpectralAutoencoder
from spectral_jax.training.config import Precision, TrainConfig
from spectral_jax.training.state import TrainState

VALIDATION_BATCH = 64  # meshes reconstructed at a time


def microbatch_size(modes: int) -> int:
    """Number of meshes of a batch that pass through the network together: on a CPU what its caches hold, else all.

    On two CPU cores, with 4,096 modes and batch 128, a step took 468 ms in parts of 16 and 547 ms in one.
    """
    return max(1, 2**16 // modes) if jax.default_backend() == "cpu" else 2**31


def loss_and_gradient(
    model: SpectralAutoencoder,
    params: Any,
    coefficients: Float[Array, "batch freq 3"],
    weights: Float[Array, "batch"] | None = None,
    precision: Precision = "default",
) -> tuple[Float[Array, ""], Any]:
    """Mean squared error over all batch * freq * 3 coefficients (paper equation 4) and its gradient.

    With weights, the loss is the sum over meshes of weight times error. A batch larger than `microbatch_size` is
    processed in parts, whose losses and gradients are summed.
    """
    model = model.clone(custom_backward=True)
    if weights is None:
        weights = jnp.full(len(coefficients), 1 / len(coefficients), coefficients.dtype)

    def loss(params, coefficients, weights):
        inputs = coefficients
        if precision == "bf16":
            params, inputs = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, coefficients))
        with jax.default_matmul_precision("highest") if precision == "highest" else contextlib.nullcontext():
            decoded: Any = model.apply({"params": params}, inputs)
        squared = jnp.square(decoded.astype(coefficients.dtype) - coefficients).mean(axis=(1, 2))
        return jnp.sum(squared * weights)

    def add(sums, part):
        return jax.tree.map(jnp.add, sums, jax.value_and_grad(loss)(params, *part)), None

    parts = -(-len(coefficients) // microbatch_size(model.config.modes))
    if parts == 1:
        return jax.value_and_grad(loss)(params, coefficients, weights)
    missing = -len(coefficients) % parts
    coefficients = jnp.pad(coefficients, ((0, missing), (0, 0), (0, 0))).reshape(parts, -1, *coefficients.shape[1:])
    weights = jnp.pad(weights, (0, missing)).reshape(parts, -1)
    zeros = jnp.zeros((), weights.dtype), jax.tree.map(jnp.zeros_like, params)
    return lax.scan(add, zeros, (coefficients, weights))[0]


def train_step(
    model: SpectralAutoencoder,
    state: TrainState,
    coefficients: Float[Array, "batch freq 3"],
    learning_rate: Float[Array, ""] | float,
    *,
    weights: Float[Array, "batch"] | None = None,
    config: TrainConfig = TrainConfig(),
    axis: str | None = None,
) -> tuple[TrainState, Float[Array, ""], Float[Array, ""]]:
    """Take one Adam step (beta1 0.9, eps 1e-8, no weight decay); return state, loss, gradient norm.

    Inside a `shard_map` over `axis`, each device passes its part of the batch. Loss and gradients are summed over the
    devices, which then all take the same step.
    """
    loss, gradient = loss_and_gradient(model, state.params, coefficients, weights, config.precision)
    if axis and jax.process_count() > 1:  # one exchange: on CPUs several can meet in the wrong order and deadlock
        flat, unravel = jax.flatten_util.ravel_pytree((loss, gradient))
        loss, gradient = unravel(lax.psum(flat, axis))
    elif axis:
        loss, gradient = lax.psum((loss, gradient), axis)
    norm: Any = optax.tree.norm(gradient)
    # optax.clip_by_global_norm rounds otherwise, (g / norm) * clip_norm, and computes the norm again.
    if config.clip_norm:
        gradient = jax.tree.map(lambda g: g * jnp.minimum(1, config.clip_norm / norm), gradient)
    direction, opt_state = optax.scale_by_adam(b2=config.beta2).update(gradient, state.opt_state)
    params = jax.tree.map(lambda p, d: p - learning_rate * d, state.params, direction)
    after = TrainState(params, opt_state, state.step + 1)
    # optax.apply_if_finite adds its counters to the optimiser's state, which checkpoints hold, and checks the gradient
    # alone. Here the loss must be finite, too, and a skipped step leaves the whole state unchanged.
    if config.skip_bad_steps:
        good = jnp.isfinite(loss) & jnp.isfinite(norm)
        after = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, state)
    return after, loss, norm


@functools.partial(jax.jit, static_argnames="model")
def validate(
    model: SpectralAutoencoder,
    params: Any,
    modes: Float[Array, "vertex freq"],
    coefficients: Float[Array, "mesh freq 3"],
    vertices: Float[Array, "mesh vertex 3"],
) -> tuple[Float[Array, "mesh"], Float[Array, "mesh"]]:
    """Per mesh: mean vertex error in mm against the original vertices, and mean squared coefficient error."""

    def batch_errors(coefficients, vertices):
        decoded: Any = model.apply({"params": params}, coefficients)
        reconstructed = jnp.einsum("vf,bfc->bvc", modes, decoded)
        errors_mm = vertex_errors_mm(reconstructed, vertices).mean(axis=-1)
        return errors_mm, jnp.mean(jnp.square(decoded - coefficients), axis=(1, 2))

    with jax.default_matmul_precision("highest"):
        return map_batches(batch_errors, VALIDATION_BATCH, coefficients, vertices)
