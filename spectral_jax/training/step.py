"""One step of training, and validation, as pure functions over arrays."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.flatten_util
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float

from spectral_jax.geometry.metrics import map_batches, vertex_errors_mm
from spectral_jax.network import networks, principal
from spectral_jax.network.autoencoder import SpectralAutoencoder
from spectral_jax.network.networks import Network, TrainedPart
from spectral_jax.network.principal import Principal
from spectral_jax.training.config import Loss, Precision, TrainConfig
from spectral_jax.training.state import TrainState, for_loop, from_loop, ravel, swap_kernels

VALIDATION_BATCH = 64  # meshes reconstructed at a time
LEAST_SQUARED = 1e-16  # square metres; a smaller error has no gradient of the distance loss


def microbatch_size(values: int) -> int:
    """Number of rows of so many values that pass through the network together: on a CPU what its caches hold, else all.

    On two CPU cores, with 4,096 modes (12,288 values) and batch 128, a step took 468 ms in parts of 16 and 547 ms in
    one.
    """
    return max(1, 3 * 2**16 // values) if jax.default_backend() == "cpu" else 2**31


def loss_and_gradient(
    model: TrainedPart,
    params: Any,
    rows: Float[Array, "batch *row"],
    weights: Float[Array, "batch"] | None = None,
    precision: Precision = "default",
    kind: Loss = "squared",
    constants: Any = None,
) -> tuple[Float[Array, ""], Any]:
    """The loss of a batch, and its gradient.

    The squared loss is the mean squared error over all batch * freq * 3 coefficients (paper equation 4). Rows are those
    of `networks.trained_part`; scores give the same loss as the coefficients that they belong to. With weights, the
    loss is the sum over meshes of weight times error. The constants may hold the metric of `training.smoothness`. A
    batch larger than `microbatch_size` is processed in parts, whose losses and gradients are summed.
    """
    if isinstance(model, SpectralAutoencoder):
        model = model.clone(custom_backward=True)
    if weights is None:
        weights = jnp.full(len(rows), 1 / len(rows), rows.dtype)

    def loss(params, rows, weights):
        inputs, fixed = rows, constants
        if precision == "bf16":
            params, inputs, fixed = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params, rows, constants))
        with jax.default_matmul_precision("highest") if precision == "highest" else contextlib.nullcontext():
            decoded: Any = model.apply(networks.variables(params, fixed), inputs)
        squared = jnp.square(_weighted(decoded.astype(rows.dtype) - rows, (constants or {}).get("metric")))
        error = squared.sum(axis=tuple(range(1, rows.ndim))) / (3 * model.config.modes)
        if kind == "distance":  # the root has no derivative at zero
            error = jnp.sqrt(jnp.maximum(error, LEAST_SQUARED))
        return jnp.sum(error * weights)

    def add(sums, part):
        return jax.tree.map(jnp.add, sums, jax.value_and_grad(loss)(params, *part)), None

    parts = -(-len(rows) // microbatch_size(math.prod(rows.shape[1:])))
    if parts == 1:
        return jax.value_and_grad(loss)(params, rows, weights)
    missing = -len(rows) % parts
    rows = jnp.pad(rows, ((0, missing), *[(0, 0)] * (rows.ndim - 1))).reshape(parts, -1, *rows.shape[1:])
    weights = jnp.pad(weights, (0, missing)).reshape(parts, -1)
    zeros = jnp.zeros((), weights.dtype), jax.tree.map(jnp.zeros_like, params)
    return lax.scan(add, zeros, (rows, weights))[0]


def _weighted(errors: Array, metric: Any) -> Array:
    """Errors of rows as the loss squares them (`training.smoothness`)."""
    if metric is None:
        return errors
    return metric[None, :, None] * errors if metric.ndim == 1 else jnp.matmul(errors, metric, precision="highest")


def train_step(
    model: TrainedPart,
    state: TrainState,
    rows: Float[Array, "batch *row"],
    learning_rate: Float[Array, ""] | float,
    *,
    weights: Float[Array, "batch"] | None = None,
    config: TrainConfig = TrainConfig(),
    constants: Any = None,
    axis: str | None = None,
) -> tuple[TrainState, Float[Array, ""], Float[Array, ""]]:
    """Take one Adam step (beta1 0.9, eps 1e-8, no weight decay); return state, loss, gradient norm.

    Inside a `shard_map` over `axis`, each device passes its part of the batch. Loss and gradients are summed over the
    devices, which then all take the same step.
    """
    state, unravel = for_loop(state)
    state, loss, norm = step_in_loop(model, unravel, state, rows, learning_rate, weights, config, constants, axis)
    return from_loop(state, unravel), loss, norm


def step_in_loop(
    model: TrainedPart,
    unravel: Callable[[Any], Any],
    state: TrainState,
    rows: Float[Array, "batch *row"],
    learning_rate: Float[Array, ""] | float,
    weights: Float[Array, "batch"] | None,
    config: TrainConfig,
    constants: Any = None,
    axis: str | None = None,
) -> tuple[TrainState, Float[Array, ""], Float[Array, ""]]:
    """`train_step` on a state of `for_loop`, with its `unravel`."""
    if config.laplacian_weight and "metric" not in (constants or {}):
        raise ValueError(f"laplacian weight {config.laplacian_weight} needs constants of smoothness.with_metric")
    loss, tree = loss_and_gradient(
        model, swap_kernels(state.params), rows, weights, config.precision, config.loss, constants
    )
    gradient = ravel(tree)
    if axis and jax.process_count() > 1:  # one exchange: on CPUs several can meet in the wrong order and deadlock
        flat, split = jax.flatten_util.ravel_pytree((loss, gradient))
        loss, gradient = split(lax.psum(flat, axis))
    elif axis:
        loss, gradient = lax.psum((loss, gradient), axis)
    norm: Any = optax.tree.norm(gradient)
    # optax.clip_by_global_norm rounds otherwise, (g / norm) * clip_norm, and computes the norm again.
    if config.clip_norm:
        gradient = jax.tree.map(lambda g: g * jnp.minimum(1, config.clip_norm / norm), gradient)
    direction, opt_state = optax.scale_by_adam(b2=config.beta2).update(gradient, state.opt_state)
    params = jax.tree.map(lambda p, d: p - learning_rate * d, state.params, unravel(direction))
    after = TrainState(params, opt_state, state.step + 1)
    # optax.apply_if_finite adds its counters to the optimiser's state, which checkpoints hold, and checks the gradient
    # alone. Here the loss must be finite, too, and a skipped step leaves the whole state unchanged.
    if config.skip_bad_steps:
        good = jnp.isfinite(loss) & jnp.isfinite(norm)
        after = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, state)
    return after, loss, norm


@functools.partial(jax.jit, static_argnames="model")
def validate(
    model: Network | TrainedPart,
    params: Any,
    modes: Float[Array, "vertex freq"] | Principal,
    rows: Float[Array, "mesh *row"],
    vertices: Float[Array, "mesh vertex 3"],
    constants: Any = None,
) -> tuple[Float[Array, "mesh"], Float[Array, "mesh"]]:
    """Per mesh: mean vertex error in mm against the original vertices, and mean squared coefficient error.

    Rows are coefficients, or scores of the residual network's trained part, whose latents are refined; `modes` are then
    its directions as displacements of vertices.
    """

    def batch_errors(rows, vertices):
        method = "reconstruct" if isinstance(modes, Principal) else None
        decoded: Any = model.apply(networks.variables(params, constants), rows, method=method)
        if isinstance(modes, Principal):
            reconstructed = principal.reconstruct(modes, decoded[:, :-1])
        else:
            reconstructed = jnp.einsum("vf,bfc->bvc", modes, decoded)
        errors_mm = vertex_errors_mm(reconstructed, vertices).mean(axis=-1)
        squared = jnp.square(decoded - rows).sum(axis=tuple(range(1, rows.ndim)))
        return errors_mm, squared / (3 * model.config.modes)

    with jax.default_matmul_precision("highest"):
        return map_batches(batch_errors, VALIDATION_BATCH, rows, vertices)
