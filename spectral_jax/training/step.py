"""One step of training and many, as pure functions over arrays: state, step, epochs, validation."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from spectral_jax.geometry.metrics import map_batches, vertex_errors_mm
from spectral_jax.network.autoencoder import ModelConfig, SpectralAutoencoder, init_params
from spectral_jax.training.devices import AXIS
from spectral_jax.training.schedule import Plateau

VALIDATION_BATCH = 64
Schedule = Literal["plateau", "cosine"]
Precision = Literal["default", "highest", "bf16"]


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
    precision: Precision = "default"
    """Of the network's arithmetic: the device's default (TF32 on recent NVIDIA GPUs), full float32, or bfloat16."""
    clip_norm: float = 0.0
    """Norm that longer gradients are scaled down to; 0: none are."""
    skip_bad_steps: bool = False
    """Leave out a step whose loss or gradient is not finite, instead of ending there."""

    def __post_init__(self):
        for name in ("epochs", "batch_size", "validate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name.replace('_', ' ')} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning rate must be positive, not {self.learning_rate}")
        if not 0 <= self.clip_norm < float("inf"):
            raise ValueError(f"clip norm must be at least 0, not {self.clip_norm}")
        if not 0 <= self.beta2 < 1:
            raise ValueError(f"beta2 must be at least 0 and below 1, not {self.beta2}")
        if self.schedule not in ("plateau", "cosine"):
            raise ValueError(f"schedule must be plateau or cosine, not {self.schedule!r}")
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision must be default, highest or bf16, not {self.precision!r}")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """All that a step changes: parameters, Adam's moments (optax.ScaleByAdamState), number of steps taken (int32)."""

    params: Any
    opt_state: Any
    step: Any


class EpochMetrics(NamedTuple):
    """Kept through an epoch of its steps so far: sums over meshes of the loss, and of the meshes themselves; sums over
    steps of the gradient's norm, and of those left out; and the first step (or -1) with something not finite."""

    loss: Any = np.float32(0)
    meshes: Any = np.float32(0)
    gradient_norm: Any = np.float32(0)
    skipped: Any = np.int32(0)
    bad_step: Any = np.int32(-1)


class TrainingProgress(NamedTuple):
    """Where training stands: `epoch` epochs done and `step` steps of the next, with all that the rest depends on."""

    state: TrainState
    plateau: Plateau
    epoch: int
    validation_mm: float | None = None
    best_mm: float | None = None
    step: int = 0
    sums: EpochMetrics = EpochMetrics()


def init_state(model_config: ModelConfig, config: TrainConfig) -> TrainState:
    """The state before the first step, from the seed alone."""
    params = init_params(model_config, jax.random.key(config.seed))
    adam = optax.ScaleByAdamState(
        jnp.zeros((), jnp.int32), optax.tree.zeros_like(params), optax.tree.zeros_like(params)
    )
    return TrainState(params, adam, jnp.zeros((), jnp.int32))


def microbatch_size(modes: int) -> int:
    """How many meshes of a batch go through the network together: on a CPU what its caches hold, elsewhere all.

    On two CPU cores, 4,096 modes, batch 128, a step took 468 ms in parts of 16 and 547 ms in one.
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

    With weights the sum over meshes of weight times error instead of their mean. A batch of more meshes than
    `microbatch_size` is summed up in parts.
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
    nothing = jnp.zeros((), weights.dtype), jax.tree.map(jnp.zeros_like, params)
    return lax.scan(add, nothing, (coefficients, weights))[0]


def train_step(
    model: SpectralAutoencoder,
    state: TrainState,
    coefficients: Float[Array, "batch freq 3"],
    learning_rate: Float[Array, ""] | float,
    weights: Float[Array, "batch"] | None = None,
    config: TrainConfig = TrainConfig(),
    axis: str | None = None,
) -> tuple[TrainState, Float[Array, ""], Float[Array, ""]]:
    """One Adam step (betas 0.9 and the config's, eps 1e-8, no weight decay), and loss and gradient's norm before it.

    Inside a `shard_map` over `axis` each device has its part of the batch and takes the step of the whole, after a sum
    over devices of the gradients and the loss.
    """
    loss, gradient = loss_and_gradient(model, state.params, coefficients, weights, config.precision)
    if axis and jax.process_count() > 1:  # one exchange at a time: several can meet in the wrong order on CPUs
        flat, unravel = jax.flatten_util.ravel_pytree((loss, gradient))
        loss, gradient = unravel(lax.psum(flat, axis))
    elif axis:
        loss, gradient = lax.psum((loss, gradient), axis)
    norm: Any = optax.tree.norm(gradient)
    if config.clip_norm:
        gradient = jax.tree.map(lambda g: g * jnp.minimum(1, config.clip_norm / norm), gradient)
    direction, opt_state = optax.scale_by_adam(b2=config.beta2).update(gradient, state.opt_state)
    params = jax.tree.map(lambda p, d: p - learning_rate * d, state.params, direction)
    after = TrainState(params, opt_state, state.step + 1)
    if config.skip_bad_steps:
        good = jnp.isfinite(loss) & jnp.isfinite(norm)
        after = jax.tree.map(lambda new, old: jnp.where(good, new, old), after, state)
    return after, loss, norm


def num_steps(num_meshes: int, batch_size: int) -> int:
    """Steps in an epoch, the smaller last batch included."""
    return -(-num_meshes // batch_size)


@functools.partial(jax.jit, static_argnames=("num_meshes", "batch_size", "num_devices"))
def epoch_order(
    key: Array, epoch: Int[Array, ""] | int, num_meshes: int, batch_size: int, num_devices: int = 1
) -> Int[Array, "step row"]:
    """The meshes of each step of an epoch (0-based), shuffled by the key and the epoch alone.

    -1 fills up the smaller last batch, and rows up to a multiple of the number of devices.
    """
    order = jax.random.permutation(jax.random.fold_in(key, epoch), num_meshes)
    steps = num_steps(num_meshes, batch_size)
    order = jnp.pad(order, (0, steps * batch_size - num_meshes), constant_values=-1).reshape(steps, batch_size)
    return jnp.pad(order, ((0, 0), (0, -batch_size % num_devices)), constant_values=-1)


def train_steps(
    model: SpectralAutoencoder,
    config: TrainConfig,
    state: TrainState,
    sums: EpochMetrics,
    batch: Callable[[Array], tuple[Array, Array, Array]],
    learning_rates: Float[Array, "step"],
    start: Int[Array, ""] | int,
    stop: Int[Array, ""] | int,
    axis: str | None = None,
) -> tuple[TrainState, EpochMetrics]:
    """Steps `start` to `stop` of an epoch in one loop on the device.

    `batch` gives the meshes of a step, which of them count (1, or 0 for those that fill up a batch), and how many do on
    all devices together.

    The loop holds matrix products only: on a CPU XLA runs a convolution inside a loop three times slower.
    """

    def body(step, carry):
        state, sums = carry
        coefficients, counts, number = batch(step)
        weights, coefficients = counts / number, coefficients.astype(jnp.float32)
        state, loss, norm = train_step(model, state, coefficients, learning_rates[step], weights, config, axis)
        total = lax.optimization_barrier(loss * number)  # rounded by itself in every program this is part of
        good = jnp.isfinite(loss) & jnp.isfinite(norm)
        bad_step = jnp.where((sums.bad_step < 0) & ~good, step, sums.bad_step)
        skipped = sums.skipped
        if config.skip_bad_steps:
            total, number, norm = (jnp.where(good, value, 0) for value in (total, number, norm))
            bad_step, skipped = sums.bad_step, skipped + ~good
        return state, EpochMetrics(
            sums.loss + total, sums.meshes + number, sums.gradient_norm + norm, skipped, bad_step
        )

    return lax.fori_loop(start, stop, body, (state, sums))


class StepRange(NamedTuple):
    """The steps of one dispatch: from `start` of epoch `epoch` (0-based) to `stop` of the last of `count` epochs."""

    epoch: Any
    count: Any
    start: Any
    stop: Any


def train_epochs(
    model: SpectralAutoencoder,
    config: TrainConfig,
    state: TrainState,
    sums: EpochMetrics,
    coefficients: Float[Array, "mesh freq 3"],
    key: Array,
    span: StepRange,
    learning_rates: Float[Array, "epoch step"],
    num_devices: int = 1,
    axis: str | None = None,
) -> tuple[TrainState, EpochMetrics]:
    """The steps of a span over coefficients that are all here, and the sums of each of its epochs (epoch).

    `sums` are those so far of the epoch that the span begins in. Span and rates are data: they never recompile.
    """

    fresh = jax.tree.map(jnp.asarray, EpochMetrics())

    def body(i, carry):
        state, every = carry
        order = epoch_order(key, span.epoch + i, len(coefficients), config.batch_size, num_devices)
        numbers = jnp.sum(order >= 0, axis=1, dtype=jnp.float32)
        if axis:
            rows = order.shape[1] // num_devices
            order = lax.dynamic_slice_in_dim(order, lax.axis_index(axis) * rows, rows, axis=1)
        start = jnp.where(i == 0, span.start, 0)
        stop = jnp.where(i == span.count - 1, span.stop, len(order))
        so_far = jax.tree.map(lambda first, zero: jnp.where(i == 0, first, zero), sums, fresh)

        def batch(step):
            return coefficients[order[step]], (order[step] >= 0).astype(jnp.float32), numbers[step]

        state, done = train_steps(model, config, state, so_far, batch, learning_rates[i], start, stop, axis)
        return state, jax.tree.map(lambda values, value: values.at[i].set(value), every, done)

    every = jax.tree.map(lambda zero: jnp.broadcast_to(zero, len(learning_rates)), fresh)
    return lax.fori_loop(0, span.count, body, (state, every))


@functools.partial(jax.jit, static_argnames=("model", "config", "mesh"), donate_argnames="state")
def train_resident(model, config, mesh: Mesh, state, sums, coefficients, key, span, learning_rates):
    """`train_epochs` on the devices of a mesh, each with all coefficients and its part of every batch; a key's data."""
    epochs = functools.partial(train_epochs, model, config, num_devices=mesh.size, axis=AXIS)
    everywhere = PartitionSpec()
    sharded = jax.shard_map(epochs, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False)
    return sharded(state, sums, coefficients, jax.random.wrap_key_data(key), span, learning_rates)


@functools.partial(jax.jit, static_argnames=("model", "config", "mesh"), donate_argnames="state")
def train_block(model, config, mesh: Mesh, state, sums, meshes, counts, numbers, learning_rates, stop):
    """The steps up to `stop` of a block of batches (step, batch, freq, 3), split over the devices of a mesh."""

    def steps(state, sums, meshes, counts, numbers, learning_rates, stop):
        batch = lambda step: (meshes[step], counts[step], numbers[step])  # noqa: E731
        return train_steps(model, config, state, sums, batch, learning_rates, 0, stop, AXIS)

    everywhere, split = PartitionSpec(), PartitionSpec(None, AXIS)
    in_specs = (everywhere, everywhere, split, split, everywhere, everywhere, everywhere)
    sharded = jax.shard_map(steps, mesh=mesh, in_specs=in_specs, out_specs=everywhere, check_vma=False)
    return sharded(state, sums, meshes, counts, numbers, learning_rates, stop)


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
