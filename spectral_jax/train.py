"""Training as pure functions over device-resident coefficients: state, step, epoch, validation, fit."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from spectral_jax.metrics import map_batches, vertex_errors_mm
from spectral_jax.model import ModelConfig, SpectralAutoencoder, init_params
from spectral_jax.schedule import Plateau, cosine, step_plateau

VALIDATION_BATCH = 64
Schedule = Literal["plateau", "cosine"]


@dataclass(frozen=True)
class TrainConfig:
    """Options of training; the defaults are the published recipe. Raises ValueError for an unusable one."""

    epochs: int = 10_000
    """Passes over the train split (published: num_iterations)."""
    batch_size: int = 16
    """Meshes in a step; the smaller last batch is used (published: train_batch_size)."""
    learning_rate: float = 1e-4
    """Adam's rate at the start, or the peak of the cosine (published: learning_rate)."""
    beta2: float = 0.999
    """Decay of Adam's second moment; a short run learns faster with a short memory."""
    schedule: Schedule = "plateau"
    """The published plateau rule, or warm-up and cosine for short runs of known length."""
    validate_every: int = 10
    """Epochs between validations and checkpoints (published: check_val_every_n_epoch)."""
    seed: int = 42
    """Seed of the initial parameters and of the shuffling."""

    def __post_init__(self):
        for name in ("epochs", "batch_size", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name.replace('_', ' ')} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning rate must be positive, not {self.learning_rate}")
        if not 0 <= self.beta2 < 1:
            raise ValueError(f"beta2 must be at least 0 and below 1, not {self.beta2}")
        if self.schedule not in ("plateau", "cosine"):
            raise ValueError(f"schedule must be plateau or cosine, not {self.schedule!r}")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a step changes: parameters, Adam's moments (optax.ScaleByAdamState), number of steps taken (int32)."""

    params: Any
    opt_state: Any
    step: Any


class Progress(NamedTuple):
    """One finished epoch: its number (epochs done), the state after it, its figures, what the schedule remembers.

    The state is donated to the next epoch: use it before asking for that one.
    """

    epoch: int
    state: TrainState
    plateau: Plateau
    validation_mm: float | None
    figures: dict[str, float]


def init_state(model_config: ModelConfig, config: TrainConfig) -> TrainState:
    """The state before the first step, from the seed alone."""
    params = init_params(model_config, jax.random.key(config.seed))
    adam = optax.ScaleByAdamState(
        jnp.zeros((), jnp.int32), optax.tree.zeros_like(params), optax.tree.zeros_like(params)
    )
    return TrainState(params, adam, jnp.zeros((), jnp.int32))


def loss_and_gradient(
    model: SpectralAutoencoder,
    params: Any,
    coefficients: Float[Array, "batch freq 3"],
    weights: Float[Array, "batch"] | None = None,
) -> tuple[Float[Array, ""], Any]:
    """Mean squared error over all batch * freq * 3 coefficients (paper equation 4) and its gradient.

    Meshes of weight 0 are left out, as if the batch were smaller.
    """

    model = model.clone(trained=True)

    def loss(params):
        decoded: Any = model.apply({"params": params}, coefficients)
        squared = jnp.square(decoded - coefficients)
        return jnp.mean(squared) if weights is None else jnp.average(squared.mean(axis=(1, 2)), weights=weights)

    return jax.value_and_grad(loss)(params)


def train_step(
    model: SpectralAutoencoder,
    state: TrainState,
    coefficients: Float[Array, "batch freq 3"],
    learning_rate: Float[Array, ""] | float,
    weights: Float[Array, "batch"] | None = None,
    beta2: float = TrainConfig.beta2,
) -> tuple[TrainState, Float[Array, ""]]:
    """One Adam step (betas 0.9 and `beta2`, eps 1e-8, no weight decay) and the loss before it."""
    loss, gradient = loss_and_gradient(model, state.params, coefficients, weights)
    direction, opt_state = optax.scale_by_adam(b2=beta2).update(gradient, state.opt_state)
    params = jax.tree.map(lambda p, d: p - learning_rate * d, state.params, direction)
    return TrainState(params, opt_state, state.step + 1), loss


def num_steps(num_meshes: int, batch_size: int) -> int:
    """Steps in an epoch, the smaller last batch included."""
    return -(-num_meshes // batch_size)


@functools.partial(jax.jit, static_argnames=("model", "batch_size", "beta2"), donate_argnames="state")
def train_epoch(
    model: SpectralAutoencoder,
    state: TrainState,
    coefficients: Float[Array, "mesh freq 3"],
    key: Array,
    learning_rates: Float[Array | np.ndarray, "step"],
    batch_size: int,
    beta2: float = TrainConfig.beta2,
) -> tuple[TrainState, Float[Array, ""]]:
    """One pass over the coefficients in the order `key` draws, in one dispatch, and the mean loss over meshes.

    There is a learning rate for each of the `num_steps` steps; rates are data, so they never recompile. The last batch
    may be smaller: it is filled up with meshes of weight 0. The scan holds matrix products only: on a CPU XLA runs a
    convolution inside a scan three times slower.
    """
    count, steps = len(coefficients), len(learning_rates)
    order = jnp.pad(jax.random.permutation(key, count), (0, steps * batch_size - count)).reshape(steps, batch_size)
    weights = (jnp.arange(steps * batch_size) < count).astype(jnp.float32).reshape(steps, batch_size)

    def body(state, batch):
        indices, weights, learning_rate = batch
        return train_step(model, state, coefficients[indices], learning_rate, weights, beta2)

    state, losses = jax.lax.scan(body, state, (order, weights, learning_rates))
    return state, jnp.average(losses, weights=weights.sum(axis=1))


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


class FitData(NamedTuple):
    """What fit reads, all with the network's mode count; float32 and metres."""

    train_coefficients: Float[Array | np.ndarray, "mesh freq 3"]
    modes: Float[Array | np.ndarray, "vertex freq"]
    test_coefficients: Float[Array | np.ndarray, "mesh freq 3"]
    test_vertices: Float[Array | np.ndarray, "mesh vertex 3"]


def fit(
    model_config: ModelConfig,
    config: TrainConfig,
    data: FitData,
    state: TrainState | None = None,
    plateau: Plateau | None = None,
    epochs_done: int = 0,
    validation_mm: float | None = None,
) -> Iterator[Progress]:
    """Train from `epochs_done` to `config.epochs`, yielding after each.

    A run continued from what a Progress held equals one that never stopped, bit for bit on one CPU device. Raises
    FloatingPointError with the epoch, the loss and the learning rate when the loss is not finite.
    """
    model = SpectralAutoencoder(model_config)
    current = init_state(model_config, config) if state is None else jax.device_put(state)
    plateau = Plateau(config.learning_rate) if plateau is None else plateau
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    train_coefficients, modes, *test = jax.device_put(tuple(data))
    steps = num_steps(len(train_coefficients), config.batch_size)

    for epoch in range(epochs_done, config.epochs):
        start = time.perf_counter()
        if config.schedule == "plateau":
            rates = np.full(steps, plateau.learning_rate, np.float32)
        else:
            rates = cosine(config.learning_rate, epoch * steps, steps, config.epochs * steps)
        epoch_key = jax.random.fold_in(key, epoch)
        current, loss = train_epoch(
            model, current, train_coefficients, epoch_key, rates, config.batch_size, config.beta2
        )
        loss = float(loss)
        if not np.isfinite(loss):
            raise FloatingPointError(f"loss {loss} in epoch {epoch + 1} at learning rate {rates[0]:.3g}")
        seconds = time.perf_counter() - start
        figures = {
            "spectral_train_loss": loss,
            "learning_rate": plateau.learning_rate if config.schedule == "plateau" else float(rates[-1]),
            "epoch_time": seconds,
            "meshes_per_second": len(train_coefficients) / seconds,
        }
        due = (epoch + 1) % config.validate_every == 0
        if due or epoch + 1 == config.epochs:
            errors_mm, spectral = jax.device_get(validate(model, current.params, modes, *test))
            figures["spectral_validation_loss"] = float(np.mean(spectral, dtype=np.float64))
            figures["spatial_validation_loss"] = float(np.mean(errors_mm, dtype=np.float64))
        if due:  # the plateau rule sees no validation that a longer run would not have made
            validation_mm = figures["spatial_validation_loss"]
        if validation_mm is not None:
            plateau = step_plateau(plateau, validation_mm)
        yield Progress(epoch + 1, current, plateau, validation_mm, figures)
