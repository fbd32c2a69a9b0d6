"""Many steps in one call: the loop over steps on the devices, and how many steps each call takes."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from spectral_jax.network.networks import TrainedPart
from spectral_jax.training import batches, devices
from spectral_jax.training.batches import Batch, DeviceData, StreamedData, epoch_order, num_steps
from spectral_jax.training.config import Storage, TrainConfig
from spectral_jax.training.devices import AXIS
from spectral_jax.training.schedule import MAX_EPOCHS_AHEAD
from spectral_jax.training.state import EpochMetrics, TrainingProgress, TrainState, for_loop, from_loop
from spectral_jax.training.step import step_in_loop

DISPATCH_SECONDS = 1.0  # how long the devices work without the host
FIRST_STEPS = 8  # in each of the first two dispatches: one compiles, the other tells how long a step takes
# of TrainConfig: what the host alone reads
HOST_OPTIONS = ("epochs", "learning_rate", "schedule", "validate_every", "seed", "mirror", "holdout")


class TrainContext(NamedTuple):
    """What the compiled programs depend on. It is hashable; `jit` compiles once for each value."""

    model: TrainedPart
    config: TrainConfig
    device_mesh: Mesh | None = None
    """The devices that share every batch; None: the steps are not split."""
    on_step: Callable[[Any, Any], None] | None = None
    """Called with the number of every step, from 1, and its loss; it costs a return to the host each."""

    @property
    def axis(self) -> str | None:
        """The axis of the device mesh to sum gradients over."""
        return AXIS if self.device_mesh else None

    @property
    def program(self) -> TrainContext:
        """The context with defaults for what the host alone reads: runs that differ in no more share a program."""
        defaults = {name: getattr(TrainConfig, name) for name in HOST_OPTIONS}
        return self._replace(config=dataclasses.replace(self.config, **defaults))

    @property
    def num_devices(self) -> int:
        return self.device_mesh.size if self.device_mesh else 1


class StepRange(NamedTuple):
    """The steps of one dispatch: from `start` of epoch `epoch` to `stop` of the last of `count` epochs (0-based).

    All fields are data: other values never recompile.
    """

    epoch: Any
    count: Any
    start: Any
    stop: Any
    learning_rates: Any
    """Float (epoch, step), for at least `count` whole epochs."""


def train_steps(
    context: TrainContext,
    unravel: Callable[[Any], Any],
    carry: tuple[TrainState, EpochMetrics],
    batch_at: Callable[[Array], Batch],
    learning_rates: Float[Array, "step"],
    start: Int[Array, ""] | int,
    stop: Int[Array, ""] | int,
    constants: Any = None,
) -> tuple[TrainState, EpochMetrics]:
    """Take steps `start` to `stop` of an epoch in one loop on the device; `batch_at` returns the batch of a step.

    The state is that of `for_loop`, with its `unravel`.
    The loop contains matrix products only: on a CPU, XLA runs a convolution inside a loop three times slower.
    """
    config = context.config

    def body(step, carry):
        state, sums = carry
        batch = batch_at(step)
        rows, weights = batch.coefficients.astype(jnp.float32), batch.mask / batch.num_valid
        state, loss, norm = step_in_loop(
            context.model, unravel, state, rows, learning_rates[step], weights, config, constants, context.axis
        )
        # The barrier has this product rounded alike in every program that contains it: resident and streamed data give
        # the same sums, bit for bit.
        total = lax.optimization_barrier(loss * batch.num_valid)
        meshes, skipped = batch.num_valid, sums.skipped
        if context.on_step:
            jax.debug.callback(context.on_step, state.step, loss)
        good = jnp.isfinite(loss) & jnp.isfinite(norm)
        bad_step = jnp.where((sums.bad_step < 0) & ~good, step, sums.bad_step)
        if config.skip_bad_steps:
            total, meshes, norm = (jnp.where(good, value, 0) for value in (total, meshes, norm))
            bad_step, skipped = sums.bad_step, skipped + ~good
        return state, EpochMetrics(
            sums.loss + total, sums.meshes + meshes, sums.gradient_norm + norm, skipped, bad_step
        )

    return lax.fori_loop(start, stop, body, carry)


def train_epochs(
    context: TrainContext,
    state: TrainState,
    sums: EpochMetrics,
    coefficients: Float[Array, "mesh *row"],
    key: Array,
    steps: StepRange,
    constants: Any = None,
) -> tuple[TrainState, EpochMetrics]:
    """Take a range of steps over coefficients that are all on the device; also return the totals of each epoch (epoch).

    `sums` are the totals so far of the epoch that the range begins in.
    """
    zeros = jax.tree.map(jnp.asarray, EpochMetrics())
    state, unravel = for_loop(state)

    def body(i, carry):
        state, totals = carry
        order = epoch_order(key, steps.epoch + i, len(coefficients), context.config.batch_size, context.num_devices)
        num_valid = jnp.sum(order >= 0, axis=1, dtype=jnp.float32)
        if context.axis:
            rows = order.shape[1] // context.num_devices
            order = lax.dynamic_slice_in_dim(order, lax.axis_index(context.axis) * rows, rows, axis=1)
        start = jnp.where(i == 0, steps.start, 0)
        stop = jnp.where(i == steps.count - 1, steps.stop, len(order))
        so_far = jax.tree.map(lambda first, zero: jnp.where(i == 0, first, zero), sums, zeros)

        def batch_at(step):
            return Batch(coefficients[order[step]], (order[step] >= 0).astype(jnp.float32), num_valid[step])

        rates = steps.learning_rates[i]
        state, done = train_steps(context, unravel, (state, so_far), batch_at, rates, start, stop, constants)
        return state, jax.tree.map(lambda values, value: values.at[i].set(value), totals, done)

    totals = jax.tree.map(lambda zero: jnp.broadcast_to(zero, len(steps.learning_rates)), zeros)
    state, totals = lax.fori_loop(0, steps.count, body, (state, totals))
    return from_loop(state, unravel), totals


@functools.partial(jax.jit, static_argnames="context", donate_argnames="state")
def train_resident(context: TrainContext, state, sums, coefficients, key_data, steps: StepRange, constants=None):
    """`train_epochs` on the devices of the context: each holds all coefficients and takes its rows of every batch."""

    def epochs(state, sums, coefficients, key_data, steps, constants):
        key = jax.random.wrap_key_data(key_data)
        return train_epochs(context, state, sums, coefficients, key, steps, constants)

    everywhere = PartitionSpec()
    sharded = jax.shard_map(
        epochs, mesh=context.device_mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False
    )
    return sharded(state, sums, coefficients, key_data, steps, constants)


@functools.partial(jax.jit, static_argnames="context", donate_argnames="state")
def train_block(context: TrainContext, state, sums, block: Batch, learning_rates, stop, constants=None):
    """Take the first `stop` steps of a block of batches (leading axis step), whose rows are split over the devices."""

    def steps(state, sums, block, learning_rates, stop, constants):
        batch_at = lambda step: jax.tree.map(lambda values: values[step], block)  # noqa: E731
        state, unravel = for_loop(state)
        state, sums = train_steps(context, unravel, (state, sums), batch_at, learning_rates, 0, stop, constants)
        return from_loop(state, unravel), sums

    everywhere, by_row = PartitionSpec(), PartitionSpec(None, AXIS)
    in_specs = (everywhere, everywhere, Batch(by_row, by_row, everywhere), everywhere, everywhere, everywhere)
    sharded = jax.shard_map(steps, mesh=context.device_mesh, in_specs=in_specs, out_specs=everywhere, check_vma=False)
    return sharded(state, sums, block, learning_rates, stop, constants)


class Dispatched(NamedTuple):
    """The result of one dispatch."""

    state: TrainState
    finished: list[EpochMetrics]
    """Totals of the epochs that it finished."""
    step: int
    """Number of steps taken in the epoch after those."""
    sums: EpochMetrics
    """Totals of these."""
    num_steps: int
    """Number of steps that the dispatch took."""


class ResidentDispatcher:
    """Dispatches over coefficients on the devices: each takes about a second and ends before the next validation."""

    def __init__(self, context: TrainContext, device_mesh: Mesh, data: DeviceData, constants: Any = None):
        self.num_meshes = len(data.coefficients)
        self.epoch_steps = num_steps(self.num_meshes, context.config.batch_size)
        self._context, self._coefficients, self._constants = context, data.coefficients, constants
        self._key_data = devices.replicate(jax.random.key_data(batches.shuffling_key(context.config.seed)), device_mesh)
        self._dispatches, self._step_seconds = 0, 0.0

    def dispatches(self, position: TrainingProgress, rates: np.ndarray) -> Iterator[Dispatched]:
        """Take one dispatch from the position."""
        steps = self._range(position, rates)
        start = time.perf_counter()
        context, data = self._context.program, (self._coefficients, self._key_data)
        state, totals = train_resident(context, position.state, position.sums, *data, steps, self._constants)
        epochs = [EpochMetrics(*values) for values in zip(*jax.device_get(totals), strict=True)][: steps.count]
        taken = int((steps.count - 1) * self.epoch_steps + steps.stop - steps.start)
        self._dispatches, self._step_seconds = self._dispatches + 1, (time.perf_counter() - start) / taken
        for i, sums in enumerate(epochs):
            _check_finite(sums, position.epoch + i, 0, rates[i])
        if steps.stop == self.epoch_steps:
            yield Dispatched(state, epochs, 0, EpochMetrics(), taken)
        else:
            yield Dispatched(state, [], int(steps.stop), epochs[0], taken)

    def _range(self, position: TrainingProgress, rates: np.ndarray) -> StepRange:
        """The next steps: the rest of this epoch and whole ones, or part of this epoch; int32 for jit."""
        config, budget = self._context.config, FIRST_STEPS
        if self._dispatches > 1:
            (microseconds,) = devices.max_over_processes(max(1, round(self._step_seconds * 1e6)))
            budget = max(1, round(DISPATCH_SECONDS * 1e6 / microseconds))
        left = self.epoch_steps - position.step
        epochs_left = min(
            MAX_EPOCHS_AHEAD,
            config.validate_every - position.epoch % config.validate_every,
            config.epochs - position.epoch,
        )
        count = 1 + min(max(0, budget - left) // self.epoch_steps, epochs_left - 1)
        stop = min(position.step + budget, self.epoch_steps)
        return StepRange(np.int32(position.epoch), np.int32(count), np.int32(position.step), np.int32(stop), rates)


class StreamDispatcher:
    """Dispatches over blocks of batches; the next block travels while the devices work on this one."""

    def __init__(
        self, context: TrainContext, device_mesh: Mesh, data: StreamedData, storage: Storage, constants: Any = None
    ):
        self.num_meshes = len(data)
        self.epoch_steps = num_steps(self.num_meshes, context.config.batch_size)
        self._context, self._device_mesh, self._data = context, device_mesh, data
        self._storage: Storage = storage
        self._constants = constants
        self._key = batches.shuffling_key(context.config.seed)

    def dispatches(self, position: TrainingProgress, rates: np.ndarray) -> Iterator[Dispatched]:
        """Take the rest of the position's epoch, a dispatch for each block."""
        context, step = self._context, position.step
        size = context.config.batch_size
        order = np.asarray(epoch_order(self._key, position.epoch, self.num_meshes, size, context.num_devices))
        blocks = batches.blocks(self._data, order[step:], self._device_mesh, self._storage)
        state, sums = position.state, position.sums
        following = next(blocks)
        while following is not None:
            block, count = following
            own_rates = np.zeros(len(block.num_valid), np.float32)
            own_rates[:count] = rates[0, step : step + count]
            state, sums = train_block(context.program, state, sums, block, own_rates, np.int32(count), self._constants)
            following = next(blocks, None)
            sums = jax.device_get(sums)
            _check_finite(sums, position.epoch, step, own_rates)
            step += count
            if step == self.epoch_steps:
                yield Dispatched(state, [sums], 0, EpochMetrics(), count)
            else:
                yield Dispatched(state, [], step, sums, count)


def _check_finite(sums: EpochMetrics, epoch: int, start: int, rates: np.ndarray) -> None:
    """Raise FloatingPointError for a bad step of a dispatch, whose first step is `start`, with these rates."""
    step = int(sums.bad_step)
    if step >= 0:
        raise FloatingPointError(
            f"the loss or its gradient is not finite in epoch {epoch + 1}, step {start + step + 1}, "
            f"at learning rate {rates[step]:.3g}"
        )
